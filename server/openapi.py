"""The OpenAPI 3.1 document, made from the routes as they are declared, and a page that shows it without a network."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .api import ROUTES, TITLES, Media, Route, answer, route
from .house import House
from .model import ProblemDocument

TEXTS = ("application/json", "text/event-stream")
REFERENCE = "#/components/schemas/{model}"
COMMON = (400, 401, 403, 404, 405, 408, 413, 415, 429)
"""Refusals that any operation may give."""


def document(workflows: dict[str, Any], version: str) -> dict[str, Any]:
    """The document; `workflows` maps names to signatures, each of which becomes an operation of its own."""
    models = {ProblemDocument}
    for entry in ROUTES:
        models |= {m for m in (entry.body, entry.query, *entry.answers.values()) if isinstance(m, type)}
    modes: list[Any] = [(model, "serialization") for model in sorted(models, key=lambda model: model.__name__)]
    _, schemas = models_json_schema(modes, ref_template=REFERENCE)
    paths: dict[str, Any] = {}
    for entry in ROUTES:
        paths.setdefault(entry.path, {})[entry.method.lower()] = operation(entry)
    for name, signature in workflows.items():
        paths[f"/v1/workflows/{name}/runs"] = {"post": typed(name, signature)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "GraphEngine", "version": version, "description": "Workflows of diffusion models over HTTP."},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def operation(entry: Route) -> dict[str, Any]:
    """One route as an OpenAPI operation."""
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", entry.path)
    ]
    if entry.query:
        for name, field in entry.query.model_json_schema(ref_template=REFERENCE)["properties"].items():
            told = field.pop("description", "")
            parameters.append({"name": name, "in": "query", "schema": field, "description": told})
    for name, told in entry.headers.items():
        schema = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[ -~]+$"}
        parameters.append({"name": name, "in": "header", "schema": schema, "description": told})
    made: dict[str, Any] = {
        "operationId": entry.handler.__name__,
        "summary": entry.summary,
        "parameters": parameters,
        "responses": {str(status): response(status, shape) for status, shape in entry.answers.items()},
    }
    for status in COMMON:
        made["responses"].setdefault(str(status), response(status, None))
    if entry.body is not None:
        made["requestBody"] = {"required": True, "content": body(entry.body)}
    return made


def body(shape: type[BaseModel] | Media) -> dict[str, Any]:
    if isinstance(shape, Media):
        return {kind: {"schema": {} if kind == "application/json" else _bytes()} for kind in shape.types}
    return {"application/json": {"schema": {"$ref": REFERENCE.format(model=shape.__name__)}}}


def _bytes() -> dict[str, str]:
    return {"type": "string", "format": "binary"}


def response(status: int, shape: type[BaseModel] | Media | None) -> dict[str, Any]:
    made: dict[str, Any] = {"description": TITLES.get(status, "")}
    if isinstance(shape, Media):
        made["content"] = {kind: {"schema": {} if kind in TEXTS else _bytes()} for kind in shape.types}
    elif shape is not None:
        made["content"] = {"application/json": {"schema": {"$ref": REFERENCE.format(model=shape.__name__)}}}
    elif status >= 400:
        schema = {"$ref": REFERENCE.format(model="ProblemDocument")}
        made["content"] = {"application/problem+json": {"schema": schema}}
    made["description"] = made["description"] or (shape.__doc__ or "").strip() if shape else TITLES.get(status, "Done")
    return made


def typed(name: str, signature: dict[str, Any]) -> dict[str, Any]:
    """A kept workflow as an operation with its own schema."""
    generic = next(entry for entry in ROUTES if entry.path == "/v1/workflows/{name}/runs")
    made = operation(generic)
    made["operationId"] = f"run_{name}"
    made["summary"] = signature["description"] or f"Run {name}"
    made["parameters"] = [entry for entry in made["parameters"] if entry["in"] != "path"]
    made["requestBody"] = {"required": True, "content": {"application/json": {"schema": signature["inputs"]}}}
    return made


async def made(house: House) -> dict[str, Any]:
    """The document of this server, with the workflows that it keeps now."""
    import asyncio

    from graphengine.errors import GraphError
    from graphengine.settings import package_versions

    from .process import WorkerLost
    from .workflow import _listed, find

    signatures: dict[str, Any] = {}
    for entry in await asyncio.to_thread(_listed, house):
        try:
            text = find(house, entry["name"]).read_text()
            signatures[entry["name"]] = json.loads((await house.ask("signature", text)).body)
        except (GraphError, WorkerLost, OSError, UnicodeDecodeError):
            continue  # a workflow whose plugin is gone is listed, but cannot be called
    return document(signatures, package_versions()["graphengine-diffusion"])


@route("GET", "/openapi.json", "This document", answers={200: Media(("application/json",)), 503: None}, open=True)
async def openapi(house: House, request: web.Request) -> web.StreamResponse:
    return answer(await made(house))


@route("GET", "/docs", "This document as a page", answers={200: Media(("text/html",)), 503: None}, open=True)
async def docs(house: House, request: web.Request) -> web.StreamResponse:
    return web.Response(
        text=page(await made(house)), content_type="text/html", headers={"Content-Security-Policy": CSP}
    )


CSP = "default-src 'none'; style-src 'self'"


def page(described: dict[str, Any]) -> str:
    """The document as plain HTML."""
    parts = []
    for path, operations in described["paths"].items():
        for method, entry in operations.items():
            schema = entry.get("requestBody", {}).get("content", {})
            shown = html.escape(json.dumps(schema, indent=1)) if schema else ""
            takes = "".join(
                f"<li><code>{html.escape(p['name'])}</code> ({p['in']}) {html.escape(p.get('description', ''))}</li>"
                for p in entry["parameters"]
            )
            codes = ", ".join(entry["responses"])
            parts.append(
                f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> "
                f"{html.escape(entry['summary'])}</summary><ul>{takes}</ul>"
                f"{f'<pre>{shown}</pre>' if shown else ''}<p>Answers: {codes}</p></details>"
            )
    schemas = html.escape(json.dumps(described["components"]["schemas"], indent=1))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>GraphEngine API</title><link rel=stylesheet href=page.css><main class=docs><h1>GraphEngine API</h1>"
        "<p><a href=/>Back</a>, <a href=openapi.json>openapi.json</a></p>"
        f"{''.join(parts)}<details><summary>Schemas</summary><pre>{schemas}</pre></details></main></html>"
    )
