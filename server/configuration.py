"""What the server may do and how much: one frozen object, from `GRAPHENGINE_SERVER_<FIELD>` or the command line.

`tokens` come from `GRAPHENGINE_TOKENS` (`name:token`, separated by commas) or from a file with one `name:token` a
line; they never reach a worker.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, field_validator

from graphengine.errors import AssetError

MIB = 2**20
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Configuration(BaseModel):
    """Addresses, folders and limits of a server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="address to listen on; others than loopback want tokens")
    port: int = Field(default=8420, ge=0, le=65535, description="0 takes any free one")
    data_folder: Path = Field(
        default_factory=lambda: user_data_path("graphengine", appauthor=False) / "server",
        description="where the queue, uploads, results and workflows are kept",
    )
    store: str = Field(default="", description="address of the run store; empty for SQLite in the data folder")
    tokens: dict[str, str] = Field(
        default_factory=dict, repr=False, description="who may use the server: name and token"
    )
    hosts: tuple[str, ...] = Field(default=(), description="further names under which the server may be addressed")
    origins: tuple[str, ...] = Field(default=(), description="further web origins that may use the server")
    workers: int = Field(default=1, ge=1, le=64, description="worker processes")
    capacity: int = Field(default=4, ge=1, le=256, description="runs that one worker has in hand, more of short ones")
    run_timeout: float = Field(default=3600, gt=0, description="seconds a run may take")
    grace: float = Field(default=5, gt=0, description="seconds a cancelled run, or a stopping worker, is waited for")
    silence: float = Field(default=30, gt=0, description="seconds without a heartbeat after which a worker is given up")
    losses: int = Field(default=3, ge=1, description="workers that a run may take down before it is parked")
    drain: float = Field(default=30, ge=0, description="seconds that running runs get to finish when the server stops")
    body_limit: int = Field(default=8 * MIB, ge=1024, description="bytes of a request's body")
    upload_limit: int = Field(default=256 * MIB, ge=1024, description="bytes of an uploaded file")
    node_limit: int = Field(default=20_000, ge=1, description="nodes of a workflow")
    queue_limit: int = Field(default=10_000, ge=1, description="runs that may wait")
    client_limit: int = Field(default=1_000, ge=1, description="runs of one client that may wait")
    history_limit: int = Field(default=10_000, ge=1, description="ended runs that are remembered")
    header_timeout: float = Field(
        default=10, gt=0, description="seconds for a request's head, and of an idle connection"
    )
    body_timeout: float = Field(default=30, gt=0, description="seconds between two pieces of a request's body")
    webhook_secret: str = Field(default="", repr=False, description="signs webhooks; empty means no webhooks")
    webhook_hosts: tuple[str, ...] = Field(default=(), description="hosts that webhooks may go to")

    @field_validator("tokens")
    @classmethod
    def _long_enough(cls, tokens: dict[str, str]) -> dict[str, str]:
        for name, token in tokens.items():
            if len(token) < 16:
                raise ValueError(f"the token of {name!r} is shorter than 16 characters")
        return tokens

    @classmethod
    def load(cls, token_file: Path | None = None, **overrides: Any) -> Configuration:
        """The configuration from the environment; `overrides` that are not None win.

        Raises:
            AssetError: the token file cannot be read.  pydantic.ValidationError: a value out of range.
        """
        values: dict[str, Any] = {"tokens": read_tokens(os.environ.get("GRAPHENGINE_TOKENS", "").split(","))}
        for name, field in cls.model_fields.items():
            text = os.environ.get(f"GRAPHENGINE_SERVER_{name.upper()}")
            if text and name != "tokens":
                values[name] = text.split(",") if field.annotation == tuple[str, ...] else text
        if token_file:
            try:
                values["tokens"] |= read_tokens(token_file.read_text().splitlines())
            except OSError as error:
                raise AssetError(f"the token file cannot be read: {error.strerror}.") from error
        values.update({key: value for key, value in overrides.items() if value is not None})
        return cls.model_validate(values)

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{self.data_folder.resolve() / 'runs.db'}"

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK


def read_tokens(entries: list[str]) -> dict[str, str]:
    """`name:token` entries; a token without a name is called `token`."""
    found: dict[str, str] = {}
    for entry in entries:
        name, colon, token = entry.strip().partition(":")
        if name and not name.startswith("#"):
            found[name if colon else "token"] = token if colon else name
    return found
