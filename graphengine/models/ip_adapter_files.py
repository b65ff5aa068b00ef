"""Finding IP-Adapters and the CLIP vision models that they see with, and telling what they are before weights are read.

An IP-Adapter is a safetensors file in the folder `ipadapter` of a model folder.  A CLIP vision model lies in
`clip_vision`: a folder with a `config.json`, or a file in transformers' names, whose config follows from its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphengine.errors import CheckpointError
from graphengine.fingerprint import remembered_digest
from graphengine.guiding import ClipVision, IPAdapter
from graphengine.models import clip_files, library
from graphengine.models.clip_files import ClipFiles
from graphengine.models.weights import PICKLES, TensorInfo, read_header, refusal
from graphengine.settings import Settings

PROJECTION, ATTENTION = "image_proj.", "ip_adapter."
PLAIN, FULL, PLUS = "plain", "full", "plus"
READS = {PLAIN: "proj.weight", FULL: "proj.0.weight", PLUS: "proj_in.weight"}
"""The tensor of each kind whose second side is the width of what it reads."""
WRITES = {PLAIN: "norm.weight", FULL: "proj.3.weight", PLUS: "norm_out.weight"}
"""The tensor of each kind that is as wide as a token of the prompt."""
FACES = ("perceiver_resampler.proj_in.weight", "proj.2.weight")
"""Tensors that only the kinds have that read a face's identity (FULL has the second one too)."""
VISION = "CLIPVisionModelWithProjection"
PATCHES = "vision_model.embeddings.patch_embedding.weight"
PLACES = "vision_model.embeddings.position_embedding.weight"
PROJECTED = "visual_projection.weight"
PUBLISHED = {1024: "quick_gelu", 1280: "gelu", 1664: "gelu"}
"""Activations of the published models (ViT-L, H and G), which all have 16 heads, by width."""
HEADS = 16


class VisionFile(ClipFiles):
    """A CLIP vision model."""

    def handle(self) -> ClipVision:
        """A handle on it.  Raises CheckpointError when its config tells no widths."""
        try:
            widths = int(self.config["projection_dim"]), int(self.config["hidden_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the config of {self.name} tells no widths: {error}.") from error
        return ClipVision(self.name, self.digest, "", str(self.place), width=widths[0], hidden=widths[1])


def adapter(name: str, settings: Settings) -> IPAdapter:
    """A handle on the IP-Adapter of a name.

    Raises:
        CheckpointError: there is none, it is pickled, damaged, or something else.
        AssetError: the name leads out of the model folders.
    """
    return adapter_at(library.find_file(name, "ipadapter", settings), settings, name)


def adapter_at(path: Path, settings: Settings, name: str = "") -> IPAdapter:
    """A handle on the IP-Adapter in a file.  Raises CheckpointError."""
    name = name or path.name
    header = read_header(path)
    kind = kind_of(header, name)
    shapes = {key.removeprefix(PROJECTION): info.shape for key, info in header.items()}
    reads, width = shapes[READS[kind]], shapes[WRITES[kind]]
    if len(reads) != 2 or len(width) != 1:
        raise CheckpointError(f"{name} is no IP-Adapter: its {READS[kind]} has the shape {list(reads)}.")
    summed = remembered_digest(path, settings.cache_folder)
    return IPAdapter(name, summed, "", str(path), kind=kind, reads=reads[1], width=width[0])


def kind_of(header: Mapping[str, TensorInfo], name: str) -> str:
    """Plain, full or plus, by the names of a file's tensors.  Raises CheckpointError when it is none of them."""
    own = {key.removeprefix(PROJECTION) for key in header if key.startswith(PROJECTION)}
    pairs = [key for key in header if key.startswith(ATTENTION)]
    if not own or not pairs:
        raise CheckpointError(
            f"{name} is no IP-Adapter: it holds {', '.join(list(header)[:3]) or 'nothing'}; "
            f"expected {PROJECTION}... and {ATTENTION}..."
        )
    for kind in (PLAIN, FULL, PLUS):
        if {READS[kind], WRITES[kind]} <= own and not (own & set(FACES) and kind == PLAIN):
            return kind
    what = "a face's identity" if own & set(FACES) else "pictures in an unknown way"
    raise CheckpointError(f"{name} is an IP-Adapter that reads {what}; plain, full-face and plus ones can be used.")


def vision(name: str, settings: Settings) -> VisionFile:
    """The CLIP vision model of a name.

    Raises:
        CheckpointError: there is none, it is pickled, damaged, or something else.
        AssetError: the name leads out of the model folders.
    """
    return vision_at(library.find_part(name, clip_files.KIND, settings, "CLIP vision model"), settings, name)


def vision_at(path: Path, settings: Settings, name: str = "") -> VisionFile:
    """The CLIP vision model at a place.  Raises CheckpointError."""
    name = name or path.name
    if path.is_dir():
        config, files = clip_files.in_folder(path, VISION, name)
        config = {"hidden_size": 768, "projection_dim": 512} | config  # transformers leaves defaults out
    elif path.suffix in PICKLES:
        raise CheckpointError(refusal(path))
    else:
        files, config = [path], _config(read_header(path), name)
    return VisionFile.read(name, path, config, files, settings)


def _config(header: Mapping[str, TensorInfo], name: str) -> dict[str, Any]:
    """The config of a single file, which is one of the published models."""
    shapes = {key: header[key].shape for key in (PATCHES, PLACES, PROJECTED) if key in header}
    width = shapes.get(PATCHES, (0,))[0]
    if len(shapes) != 3 or width not in PUBLISHED or [len(shape) for shape in shapes.values()] != [4, 2, 2]:
        told = ", ".join(list(header)[:3]) or "nothing"
        raise CheckpointError(
            f"{name} is no CLIP vision model (ViT-L, H or G with a projection) in the names of transformers: "
            f"it holds {told}."
        )
    layers = {key.split(".")[3] for key in header if key.startswith("vision_model.encoder.layers.")}
    wide = header.get("vision_model.encoder.layers.0.mlp.fc1.weight")
    patch = shapes[PATCHES][-1]
    return {
        "hidden_size": width,
        "intermediate_size": wide.shape[0] if wide else 4 * width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": HEADS,
        "patch_size": patch,
        "image_size": math.isqrt(max(shapes[PLACES][0] - 1, 0)) * patch,
        "projection_dim": shapes[PROJECTED][0],
        "hidden_act": PUBLISHED[width],
    }
