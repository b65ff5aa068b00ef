"""Blocks of diffusers' modular pipelines as nodes: for models that have no adapter here.

The four roles that most pipelines share have typed ports, by the overlay in `graphengine.models.modular.ports`; every other
block runs as a `ModularBlock`, which hands a state on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import Context, Field, Image, Mask, Node, Ports, Settings
from graphengine.blocks import ModularBlocks, ModularEmbeddings, ModularLatents, ModularPictures, ModularState
from graphengine.models.modular import folder as folders

BLOCK = "the block's path, such as denoise.set_timesteps; empty for the whole pipeline"


class LoadModular(Node, category="model", lane="io"):
    """Find a folder that diffusers has a modular pipeline for; its weights are read when first used."""

    folder: str = Field(description="folder in the diffusers layout in a model folder")

    class Outputs(Ports):
        pipeline: ModularBlocks

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": folders.find(inputs["folder"], settings).digest}

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.pipeline import open_pipeline

        return self.Outputs(pipeline=open_pipeline(folders.find(self.folder, ctx.settings)).handle())


class DescribeModular(Node, category="model", lane="io"):
    """Tell of a block of a modular pipeline: what it takes, what it gives, its components and inner blocks."""

    pipeline: ModularBlocks
    block: str = Field("", description=BLOCK)

    class Outputs(Ports):
        text: str

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.pipeline import describe
        from graphengine.models.modular.run import opened

        return self.Outputs(text=describe(opened(ctx, self.pipeline), self.block))


class ModularEncodeText(Node, category="conditioning", lane="gpu"):
    """Make a pipeline's embeddings of a prompt, and of what to steer away from."""

    pipeline: ModularBlocks
    prompt: str = Field("", max_length=20_000, description="what the picture shall show")
    negative: str = Field("", max_length=20_000, description="what to steer away from, where the pipeline is guided so")
    image: Image | None = Field(None, description="what the words speak of, where the text encoder sees pictures")

    class Outputs(Ports):
        embeddings: ModularEmbeddings

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.role import encode_text
        from graphengine.models.modular.shown import drawn

        given = {"prompt": self.prompt, "negative": self.negative or None, "image": drawn(self.image)}
        return self.Outputs(embeddings=encode_text(ctx, self.pipeline, given))


class ModularEncodeImage(Node, category="latent", lane="gpu"):
    """Make a pipeline's latents of a picture: to start from, to edit, or for the first frame of a film."""

    pipeline: ModularBlocks
    image: Image = Field(description="the picture")
    mask: Mask | None = Field(None, description="where to repaint, for pipelines that can")
    width: int | None = Field(None, ge=8, le=8192, description="pixels; empty for what the pipeline makes of it")
    height: int | None = Field(None, ge=8, le=8192, description="pixels; empty for what the pipeline makes of it")
    frames: int | None = Field(None, ge=1, le=1024, description="of the film that it begins")
    seed: int = Field(0, ge=0, lt=2**64, description="for encoders that draw noise")

    class Outputs(Ports):
        latents: ModularPictures

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.role import encode_pictures
        from graphengine.models.modular.shown import drawn

        given = {"image": drawn(self.image), "mask": drawn(self.mask)}
        given |= {"width": self.width, "height": self.height, "frames": self.frames}
        return self.Outputs(latents=encode_pictures(ctx, self.pipeline, given, self.seed))


class ModularDenoise(Node, category="sampling", lane="gpu"):
    """Let a pipeline remove noise, guided by embeddings.  What is left empty is as the pipeline has it."""

    pipeline: ModularBlocks
    embeddings: ModularEmbeddings
    picture: ModularPictures | None = Field(None, description="what to start from, or to edit")
    state: ModularState | None = Field(None, description="what other blocks have made, such as a ControlNet's hint")
    width: int | None = Field(None, ge=8, le=8192, description="pixels")
    height: int | None = Field(None, ge=8, le=8192, description="pixels")
    frames: int | None = Field(None, ge=1, le=1024, description="of a film")
    seed: int = Field(
        0, ge=0, lt=2**64, description="another seed, another picture; picture i of several uses seed + i"
    )
    count: int = Field(1, ge=1, le=64, description="pictures at once")
    steps: int | None = Field(None, ge=1, le=1000, description="network calls")
    guidance: float | None = Field(None, ge=0, le=100, description="how strongly the prompt pulls")
    strength: float | None = Field(None, gt=0, le=1, description="how far it may leave the picture that it starts from")

    class Outputs(Ports):
        latents: ModularLatents

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.role import denoise

        if self.width and self.height:
            ctx.settings.check_pixels(self.width, self.height, self.count * (self.frames or 1))
        ports = ("width", "height", "frames", "steps", "guidance", "strength")
        given = {port: getattr(self, port) for port in ports} | {"count": self.count if self.count > 1 else None}
        states = tuple(state for state in (self.embeddings, self.picture, self.state) if state)
        return self.Outputs(latents=denoise(ctx, self.pipeline, given, states, self.seed))


class ModularDecode(Node, category="latent", lane="gpu"):
    """Let a pipeline decode what it has denoised into pictures; a film's frames come one after the other."""

    pipeline: ModularBlocks
    latents: ModularLatents

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.role import decode

        return self.Outputs(image=Image(decode(ctx, self.pipeline, self.latents)))


class ModularBlock(Node, category="model", lane="gpu"):
    """Run any block of a modular pipeline on a state, and hand the state on."""

    pipeline: ModularBlocks
    block: str = Field("", description=BLOCK)
    inputs: dict[str, Any] = Field({}, description="inputs of the block by name: numbers, texts, lists")
    state: ModularState | None = Field(None, description="what other blocks have made")
    image: Image | None = Field(None, description="pictures for an input of the block")
    image_as: str = Field("image", description="the input that the pictures are for, such as control_image")
    seed: int = Field(0, ge=0, lt=2**64, description="for blocks that draw noise")
    guidance: float | None = Field(None, ge=0, le=100, description="scale of the pipeline's guider, where it has one")

    class Outputs(Ports):
        state: ModularState

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.run import Call, opened, run
        from graphengine.models.modular.shown import drawn

        shown = {} if self.image is None else {self.image_as: drawn(self.image)}
        states = () if self.state is None else (self.state,)
        call = Call(self.block, shown, self.inputs, states, self.seed, scale=self.guidance)
        return self.Outputs(state=run(ctx, opened(ctx, self.pipeline), call))


class ModularPicture(Node, category="image"):
    """Take pictures out of a state: those of a decoder, or a film's frames."""

    state: ModularState
    output: str = Field("images", description="the name that the block gave them: images, videos")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.modular.shown import shown

        return self.Outputs(image=Image(shown(self.state, self.output)))
