"""Pictures in files: reading them, and writing them with the recipe that made them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from graphengine import Context, Field, File, Image, Mask, Node, Ports, Settings
from graphengine.fingerprint import file_digest
from graphengine.models.assets import input_picture, inside, write_numbered


class LoadImage(Node, category="image", lane="io"):
    """Read a PNG, JPEG or WebP from the input folder; its transparency comes out as a mask of what is opaque."""

    file: str = Field(description="path inside the input folder")

    class Outputs(Ports):
        image: Image
        mask: Mask

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": file_digest(input_picture(settings, inputs["file"]))}

    def run(self, ctx: Context) -> Outputs:
        from graphengine.pictures import open_picture

        path = input_picture(ctx.settings, self.file)
        pixels = open_picture(path, ctx.settings.pixel_limit)
        return self.Outputs(image=Image(pixels[None, ..., :3]), mask=Mask(pixels[None, ..., 3]))


class SaveImage(Node, category="image", lane="io", effect=True):
    """Write pictures as PNG into the output folder, each with the recipe that made it."""

    image: Image
    name: str = Field("image", min_length=1, max_length=200, description="start of the file name; may name a subfolder")

    class Outputs(Ports):
        files: list[File]

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        inside(settings.output_folder, inputs["name"], "output")
        return {"folder": str(settings.output_folder.resolve())}

    @classmethod
    def stands(cls, outputs: Any) -> bool:
        try:
            return all(file_digest(Path(file.path)) == file.digest for file in outputs.files)
        except OSError:
            return False

    def run(self, ctx: Context) -> Outputs:
        from graphengine.pictures import write_png

        recipe = ctx.recipe() | {"node": ctx.node}
        files = []
        for index, picture in enumerate(self.image.pil()):
            notes = recipe | {"index": index}
            write = partial(write_png, picture=picture, recipe=notes)
            path = write_numbered(ctx.settings.output_folder, self.name, ".png", write)
            files.append(File(str(path), path.stat().st_size, file_digest(path)))
            ctx.progress(index + 1, len(self.image))
        return self.Outputs(files=files)
