"""The eyes of Qwen2.5-VL (Bai et al. 2025): a vision transformer that makes features of a picture in place of tokens.

A picture is cut into patches; what 2 x 2 of them show becomes one token.  Tokens have three positions, time, row and
column: words have three equal ones, those of a picture lie in a grid, and the words after it go on behind its longer side.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image as pillow
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.network import refusing, transformers_config, transformers_network
from graphengine.models.source import Source, read_json

FILES = ("preprocessor_config.json", "processor_config.json")
"""Where a processor says how it prepares pictures; the second has what else it does besides."""
FACTS = ("min_pixels", "max_pixels", "size", "image_mean", "image_std", "rescale_factor")
FIRST = "patch_embed.proj.weight"
"""The tensor whose name shows what the names of the eyes begin with."""
MOST_PIXELS = 2**25
Grid = tuple[int, int]
"""Rows and columns of a picture's tokens."""


class Eyes:
    """Vision transformer and picture processor of a checkpoint."""

    def __init__(
        self,
        source: Source,
        device: str,
        dtype: torch.dtype,
        part: str = "text_encoder",
        processor: str = "processor",
    ):
        from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

        where = f"{source.name}/{part}"
        config = transformers_config(Qwen2_5_VLConfig, source.config(part), where).vision_config
        tensors = source.tensors(part, dtype)
        prefix = next((name.removesuffix(FIRST) for name in tensors if name.endswith(FIRST)), None)
        if prefix is None:
            raise CheckpointError(f"{where} has no {FIRST}; expected the weights of a model that sees.")
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        self.network: Any = transformers_network(
            Qwen2_5_VisionTransformerPretrainedModel, config, own, where, device, dtype
        )
        self._processor = _processor(source, processor, config)
        self._merged, self._device, self._dtype = int(config.spatial_merge_size), device, dtype
        self._name = f"{source.name}/{processor}"

    @torch.no_grad()
    def see(self, picture: pillow.Image) -> tuple[Tensor, Grid]:
        """Features `[rows * columns, D]` of a picture on the device, and its grid.  Raises ValueError for a strip."""
        made = self._processor.preprocess([picture], return_tensors="pt")
        grid = made["image_grid_thw"]
        seen = self.network(made["pixel_values"].to(self._device, self._dtype), grid_thw=grid.to(self._device))
        _, rows, columns = grid[0].tolist()
        return seen.pooler_output, (rows // self._merged, columns // self._merged)


def _processor(source: Source, part: str, config: Any) -> Any:
    """What prepares pictures, of its facts alone: no class that a file names is looked for.  Raises CheckpointError."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder, where = source.place(part), f"{source.name}/{part}"
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{where} has no {' nor '.join(FILES)}; expected how pictures are prepared.")
    said = read_json(found)
    said = said.get("image_processor", said)
    with refusing(f"{where} cannot be used"):
        facts = {name: said[name] for name in FACTS if said.get(name) is not None}
        facts |= {"patch_size": config.patch_size, "temporal_patch_size": config.temporal_patch_size}
        made = Qwen2VLImageProcessorPil(merge_size=config.spatial_merge_size, **facts)
        least, most = int(made.size["shortest_edge"]), int(made.size["longest_edge"])
        if not 0 < least <= most <= MOST_PIXELS:
            raise CheckpointError(f"{where} wants pictures of {least} to {most} pixels; expected 1 to {MOST_PIXELS:,}.")
        for name in ("image_mean", "image_std"):
            if len([float(value) for value in getattr(made, name)]) != 3:
                raise CheckpointError(f"{where} has a {name} that is not of three colours.")
    return made


def positions(seen: Tensor, grids: list[Grid]) -> Tensor:
    """Positions `[3, 1, N]` of tokens, of which `seen`, bool `[N]`, are those of pictures with these grids, in order."""
    made: list[Tensor] = []
    left, place, start = list(grids), 0, 0
    while place < len(seen):
        if seen[place]:
            rows, columns = left.pop(0)
            own = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(rows), torch.arange(columns)).T
            length = max(rows, columns)
        else:
            ends = seen[place:].nonzero()
            length = int(ends[0]) if len(ends) else len(seen) - place
            own = torch.arange(length).expand(3, -1)
        made.append(own + start)
        place, start = place + own.shape[1], start + length
    return torch.cat(made, dim=1)[:, None]
