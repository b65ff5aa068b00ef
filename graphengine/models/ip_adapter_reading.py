"""What an IP-Adapter reads: a CLIP vision model (Radford et al. 2021) sees a picture, and a projector makes tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graphengine.errors import CheckpointError
from graphengine.guiding import ClipVision, IPAdapter
from graphengine.models import ip_adapter_files as files
from graphengine.models.network import refusing, transformers_config, transformers_network
from graphengine.models.weights import load_tensors, read_header
from graphengine.settings import Settings

if TYPE_CHECKING:
    import PIL.Image

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in the pictures that CLIP was trained on."""
MOST_PIXELS = 2048
HEAD = 64
"""Width of a head of the resampler."""
NAMES = {
    files.PLAIN: (("proj.", "image_embeds."),),
    files.FULL: (("proj.0.", "ff.net.0.proj."), ("proj.2.", "ff.net.2."), ("proj.3.", "norm.")),
    files.PLUS: (
        (".0.norm1.", ".ln0."),
        (".0.norm2.", ".ln1."),
        (".0.to_out.", ".attn.to_out.0."),
        (".0.to_", ".attn.to_"),
        (".1.0.", ".ff.0."),
        (".1.1.", ".ff.1.net.0.proj."),
        (".1.3.", ".ff.1.net.2."),
    ),
}
"""How names in files begin, behind the number of a layer, and what diffusers calls them."""
LAYER = re.compile(r"layers\.\d+")


class VisionEncoder:
    """CLIPVisionModelWithProjection."""

    def __init__(self, file: files.VisionFile, device: str, dtype: torch.dtype):
        from transformers.models.clip.configuration_clip import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

        config = transformers_config(CLIPVisionConfig, file.config, file.name)
        tensors = {
            name: tensor
            for name, tensor in load_tensors(file.files, dtype).items()
            if name.startswith(("vision_model.", "visual_projection."))
        }
        self.network: Any = transformers_network(
            CLIPVisionModelWithProjection, config, tensors, file.name, device, dtype
        )
        self._device, self._dtype = device, dtype
        with refusing(f"{file.name} has no picture size"):
            self._size = int(config.image_size)
        if not 0 < self._size <= MOST_PIXELS:
            raise CheckpointError(f"{file.name} reads pictures of {self._size} pixels.")

    def ready(self, pictures: list[PIL.Image.Image]) -> Tensor:
        """Pixels `[B, 3, s, s]`, normalised, of pictures resized to the shorter side and cropped at the centre."""
        return torch.from_numpy(np.stack([prepared(picture, self._size) for picture in pictures]))

    @torch.no_grad()
    def embedding(self, pixels: Tensor) -> Tensor:
        """What is seen as a whole: `[B, P]`."""
        return self.network(pixels.to(self._device, self._dtype)).image_embeds

    @torch.no_grad()
    def states(self, pixels: Tensor) -> Tensor:
        """What is seen in each place, of the last but one layer: `[B, N, D]`."""
        return self.network(pixels.to(self._device, self._dtype), output_hidden_states=True).hidden_states[-2]


def prepared(picture: PIL.Image.Image, size: int) -> np.ndarray:
    """A picture as CLIP reads it: the shorter side `size` pixels, a square of its middle, normalised; `[3, s, s]`."""
    from PIL.Image import Resampling

    width, height = picture.size
    longer = int(size * max(width, height) / min(width, height))
    new = (size, longer) if width <= height else (longer, size)
    pixels = np.asarray(picture.convert("RGB").resize(new, Resampling.BICUBIC), np.float32)
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    cropped = pixels[top : top + size, left : left + size] / np.float32(255)
    return ((cropped - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)).transpose(2, 0, 1)


class ImageProjector:
    """The part of an IP-Adapter that makes tokens of what is seen."""

    def __init__(self, handle: IPAdapter, device: str, dtype: torch.dtype):
        self.name, self._kind, self._device, self._dtype = handle.checkpoint, handle.kind, device, dtype
        tensors = load_tensors([Path(handle.folder)], dtype, files.PROJECTION)
        if not all(tensor.is_floating_point() for tensor in tensors.values()):
            raise CheckpointError(f"{self.name} cannot be used: the part that reads pictures holds no fractions.")
        with refusing(f"the part of {self.name} that reads pictures cannot be used"):
            with torch.device("meta"):
                made = _projection(handle.kind, tensors)
            made.load_state_dict(dict(_renamed(handle.kind, tensors)), assign=True)
        self.network: nn.Module = made.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def tokens(self, encoder: VisionEncoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `[B, n, D]` of pictures `[B, 3, s, s]`, and those `[1, n, D]` of no picture, on the CPU."""
        if self._kind == files.PLAIN:
            seen = encoder.embedding(pixels)
            nothing = torch.zeros_like(seen[:1])
        else:
            seen = encoder.states(pixels)
            nothing = encoder.states(torch.zeros_like(pixels[:1]))
        made = (self.network(each.to(self._device, self._dtype)).float().cpu() for each in (seen, nothing))
        return next(made), next(made)


def _projection(kind: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of a kind, as large as its tensors say."""
    from diffusers.models import embeddings

    reads, width = tensors[files.READS[kind]].shape[1], tensors[files.WRITES[kind]].shape[0]
    if kind == files.PLAIN:
        return embeddings.ImageProjection(reads, width, tensors["proj.weight"].shape[0] // width)
    if kind == files.FULL:
        return embeddings.IPAdapterFullImageProjection(reads, width)
    _, queries, hidden = tensors["latents"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
    heads = tensors["layers.0.0.to_q.weight"].shape[0] // HEAD
    return embeddings.IPAdapterPlusImageProjection(
        reads, width, hidden, depth, HEAD, heads, queries, tensors["layers.0.1.1.weight"].shape[0] / hidden
    )


def _renamed(kind: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        layer = LAYER.match(name)
        head, rest = (layer[0], name[layer.end() :]) if layer else ("", name)
        old, new = next((pair for pair in NAMES[kind] if rest.startswith(pair[0])), ("", ""))
        renamed = head + new + rest.removeprefix(old)
        if renamed.endswith("attn.to_kv.weight"):
            for part, half in zip(("to_k", "to_v"), tensor.chunk(2), strict=True):
                yield renamed.replace("to_kv", part), half.contiguous()
        else:
            yield renamed, tensor


# Loading


def load(
    handle: ClipVision | IPAdapter, settings: Settings, device: str, dtype: torch.dtype
) -> VisionEncoder | ImageProjector:
    """The network that a handle names.  Raises CheckpointError, also when the file is another by now."""
    path = Path(handle.folder)
    if isinstance(handle, ClipVision):
        file = files.vision_at(path, settings, handle.checkpoint)
        made, now = VisionEncoder(file, device, dtype), file.digest
    else:
        made, now = ImageProjector(handle, device, dtype), files.adapter_at(path, settings, handle.checkpoint).digest
    if now != handle.digest:
        raise CheckpointError(f"{handle.checkpoint} was changed while the run went on. Run it again.")
    return made


def numbers(handle: ClipVision | IPAdapter, settings: Settings) -> int:
    """How many numbers the weights of a network are.  Raises CheckpointError."""
    path = Path(handle.folder)
    if isinstance(handle, ClipVision):
        return files.vision_at(path, settings, handle.checkpoint).numbers()
    return sum(info.numbers for name, info in read_header(path).items() if name.startswith(files.PROJECTION))
