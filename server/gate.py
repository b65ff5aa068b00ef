"""Who may come in: Host, Origin and token, looked at before anything else of a request is.

Host      must be a name under which the server was started: another one means DNS rebinding
Origin    a browser says from which site a request comes; only our own page (and named ones) may send any
token     without tokens only loopback is served; with them every route but the open ones wants one
body      compressed ones are refused: a few bytes could become gigabytes
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from .api import Refusal
from .configuration import LOOPBACK, Configuration

OPEN = {"/", "/page.css", "/page.js", "/docs", "/openapi.json", "/healthz", "/readyz"}
CLIENT = "X-Client"
EVERYWHERE = {
    "Server": "GraphEngine",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def gate(configuration: Configuration) -> Any:
    """The middleware that lets requests in or refuses them."""
    names = {name.lower() for name in (*LOOPBACK, *configuration.hosts, configuration.host)} - {"0.0.0.0", "::"}
    tokens = {name: token.encode() for name, token in configuration.tokens.items()}

    @web.middleware
    async def enter(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        host = host_name(request.headers.get("Host", ""))
        if host not in names:
            raise Refusal(403, f"The server does not go by the name {host[:60]!r}; start it with --allow-host.")
        _check_origin(request, configuration)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Refusal(415, "Compressed bodies are not taken.")
        request["client"] = _client(request, tokens)
        return await handler(request)

    return enter


def host_name(header: str) -> str:
    """The name in a Host header, without its port; "" when it is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _check_origin(request: web.Request, configuration: Configuration) -> None:
    origin = request.headers.get("Origin")
    if origin is not None:
        own = f"{request.scheme}://{request.headers.get('Host', '')}"
        if origin != own and origin not in configuration.origins:
            raise Refusal(403, f"Requests from {origin[:60]!r} are not taken; start the server with --allow-origin.")
    elif request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Refusal(403, "Requests from other sites are not taken.")


def _client(request: web.Request, tokens: dict[str, bytes]) -> str:
    """Who asks: the token's name, or what a client on loopback calls itself."""
    if not tokens:
        name = request.headers.get(CLIENT, "local")
        if not (0 < len(name) <= 64 and name.isascii() and name.isprintable()):
            raise Refusal(400, f"{CLIENT} must have 1 to 64 printable characters.")
        return name
    given = _given(request).encode("utf-8", "replace")
    found = [name for name, token in tokens.items() if hmac.compare_digest(token, given)]  # no early end
    if found:
        return found[0]
    if request.path in OPEN and request.method in ("GET", "HEAD"):
        return "nobody"
    raise Refusal(
        401, "This server wants a token: Authorization: Bearer TOKEN.", headers={"WWW-Authenticate": "Bearer"}
    )


def _given(request: web.Request) -> str:
    """The token of a request.  A WebSocket of a browser cannot set headers: it offers the token as a subprotocol."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    offered = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    return next((part.removeprefix("token.") for part in offered if part.startswith("token.")), "")
