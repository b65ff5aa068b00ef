"""Moving pictures: one file of several frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from graphengine import Context, Field, File, Image
from graphengine.fingerprint import file_digest
from graphengine.models.assets import write_numbered

from .image_files import SaveImage


class SaveAnimation(SaveImage, category="image", lane="io", effect=True):
    """Write pictures as the frames of an animated WebP into the output folder, without loss."""

    image: list[Image] = Field(description="every picture of every batch is a frame, in order")  # pyright: ignore[reportIncompatibleVariableOverride]
    frames_per_second: float = Field(8.0, gt=0, le=60, description="how fast it plays")
    hold: float = Field(1.0, ge=0, le=60, description="seconds that the last frame stays besides")

    def run(self, ctx: Context) -> Any:
        frames = [picture.convert("RGB") for image in self.image for picture in image.pil()]
        if not frames:
            raise ValueError("there are no pictures to animate.")
        if len({frame.size for frame in frames}) > 1:
            raise ValueError("the frames are of different sizes; resize them first.")
        length = round(1000 / self.frames_per_second)
        durations = [length] * (len(frames) - 1) + [length + round(1000 * self.hold)]
        write = partial(_write, frames=frames, durations=durations)
        path = write_numbered(ctx.settings.output_folder, self.name, ".webp", write)
        return self.Outputs(files=[File(str(path), path.stat().st_size, file_digest(path))])


def _write(path: Path, frames: list[Any], durations: list[int]) -> None:
    first, *others = frames
    first.save(path, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, lossless=True)
