"""Uploads: pictures by the digest of their bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from graphengine.errors import AssetError

from .api import Media, Refusal, answer, route
from .content import TYPES, Content
from .house import House
from .model import FileDocument
from .run import FETCHED, content

TAKEN = (*TYPES.values(), "application/octet-stream")


@route(
    "POST",
    "/v1/files",
    "Upload a picture; a LoadImage node finds it as `file`",
    body=Media(TAKEN),
    answers={201: FileDocument, 408: None, 413: None, 415: None, 507: None},
)
async def upload_file(house: House, request: web.Request) -> web.StreamResponse:
    if request.content_type not in TAKEN:
        raise Refusal(415, f"Send the bytes of a picture as {', '.join(TAKEN)}.")
    part = house.content.beside()
    try:
        await _receive(house, request, part)
        kept = await asyncio.to_thread(house.content.adopt, part)
    except AssetError as error:
        raise Refusal(415, str(error)) from None
    except OSError:
        raise Refusal(507, "The file could not be kept: the disk is full.") from None
    finally:
        part.unlink(missing_ok=True)
    return answer(_told(house, kept), 201, {"Location": f"/v1/files/{kept.digest}"})


async def _receive(house: House, request: web.Request, part: Path) -> None:
    """Write the body to disk as it comes, and no more of it than is allowed."""
    limit, seconds, size = house.configuration.upload_limit, house.configuration.body_timeout, 0
    if (request.content_length or 0) > limit:
        raise Refusal(413, f"A file may have {limit:,} bytes.")
    with part.open("wb") as file:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    piece = await request.content.readany()
            except TimeoutError:
                raise Refusal(408, "The file came too slowly.") from None
            if not piece:
                return
            size += len(piece)
            if size > limit:
                raise Refusal(413, f"A file may have {limit:,} bytes.")
            await asyncio.to_thread(file.write, piece)


def _told(house: House, kept: Content) -> dict[str, object]:
    file = (house.content.folder / kept.name).relative_to(house.settings.input_folder.resolve())
    return {"digest": kept.digest, "type": kept.type, "bytes": kept.bytes, "file": file.as_posix()}


@route("GET", "/v1/files/{digest}", "Fetch a file", answers=FETCHED)
async def fetch_file(house: House, request: web.Request) -> web.StreamResponse:
    return content(house, request.match_info["digest"])
