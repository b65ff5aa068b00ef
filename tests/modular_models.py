"""Small random pipelines of families that run as their own blocks, and the graph that draws with them."""

import socket
from contextlib import contextmanager

import pytest
import torch
from families import stable_diffusion_xl, z_image
from families.harness import NEGATIVE, PROMPT, SEED, STEPS, library
from families.language import lively
from families.vocabulary import t5_encoder, t5_tokenizer

from graphengine import Engine
from graphengine.testing import settings

SCALE = 3.0


def ltx(folder):
    """A small LTX-Video, which has no adapter here."""
    diffusers, eights, ones = library("diffusers"), (8,) * 4, (1,) * 5
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32, num_layers=1,
        caption_channels=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=eights, decoder_block_out_channels=eights, layers_per_block=ones,
        decoder_layers_per_block=ones, spatio_temporal_scaling=(True, True, False, False), patch_size=1,
        decoder_spatio_temporal_scaling=(True, True, False, False),
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    diffusers.LTXPipeline(scheduler, vae.eval(), t5_encoder(), t5_tokenizer(), lively(transformer)).save_pretrained(
        folder
    )


MAKERS = {"Z-Image": z_image.make, "LTX": ltx, "SDXL": stable_diffusion_xl.base}
SIZE = {"Z-Image": {"height": 32, "width": 64}, "LTX": {"height": 32, "width": 64}, "SDXL": {"height": 64, "width": 64}}


def all_in(folder):
    """A model folder with a small random pipeline of each family."""
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        make(folder / name)
    return folder


@contextmanager
def no_connections():
    """Whoever opens a connection fails."""

    def refused(*arguments, **options):
        raise AssertionError(f"a connection was opened: {arguments[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        yield


def engine_on(root):
    return Engine(settings=settings(root).model_copy(update={"model_folders": (root,)}))


def link(source):
    return {"from": source}


def graph(family, prompt=PROMPT, **more):
    """The nodes of the four roles."""
    sizes = SIZE[family] | ({"frames": 9} if family == "LTX" else {})
    load = {"pipeline": link("load.pipeline")}
    denoise = load | sizes | {"embeddings": link("prompt.embeddings"), "seed": SEED, "steps": STEPS, "guidance": SCALE}
    return {
        "load": {"type": "LoadModular", "inputs": {"folder": family}},
        "prompt": {"type": "ModularEncodeText", "inputs": load | {"prompt": prompt, "negative": NEGATIVE}},
        "denoise": {"type": "ModularDenoise", "inputs": denoise | more},
        "decode": {"type": "ModularDecode", "inputs": load | {"latents": link("denoise.latents")}},
    }


def made(engine, nodes, *outputs):
    named = {output.partition(".")[0]: link(output) for output in outputs}
    result = engine.submit({"graphengine": 1, "name": "w", "nodes": nodes, "outputs": named}).result(60)
    return [result[name] for name in named]


def drawn(engine, family, **changes):
    latents, image = made(engine, graph(family, **changes), "denoise.latents", "decode.image")
    return latents.values["latents"], torch.tensor(image.pixels)
