"""GraphEngine: typed node graphs for diffusion models.

    import graphengine
    picture = graphengine.run("workflows/text_to_image.json", prompt="a red star")["image"]

Importing this package imports neither torch nor diffusers.
"""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from graphengine.compose import Engine, run
from graphengine.engine import Run
from graphengine.errors import (
    AssetError,
    Cancelled,
    CheckpointError,
    GraphEngineError,
    GraphError,
    NodeError,
    Problem,
)
from graphengine.node import Context, Node, Ports
from graphengine.ports import Lazy
from graphengine.settings import Settings
from graphengine.values import (
    VAE,
    Conditioning,
    Denoiser,
    File,
    Image,
    Latent,
    LatentSpace,
    Mask,
    TextEncoder,
    Value,
)
from graphengine.workflow import Link, Workflow

if TYPE_CHECKING:
    from graphengine.client import AsyncClient, Client

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The clients are imported on first use: few programs speak to a server."""
    if name in ("AsyncClient", "Client"):
        from graphengine import client

        return getattr(client, name)
    raise AttributeError(f"module 'graphengine' has no attribute {name!r}")


__all__ = [
    "VAE",
    "AssetError",
    "AsyncClient",
    "Cancelled",
    "CheckpointError",
    "Client",
    "Conditioning",
    "Context",
    "Denoiser",
    "Engine",
    "Field",
    "File",
    "GraphEngineError",
    "GraphError",
    "Image",
    "Latent",
    "LatentSpace",
    "Lazy",
    "Link",
    "Mask",
    "Node",
    "NodeError",
    "Ports",
    "Problem",
    "Run",
    "Settings",
    "TextEncoder",
    "Value",
    "Workflow",
    "run",
]
