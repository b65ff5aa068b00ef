"""Memory that runs out, in every kind of node and in what loads the models: the run ends with its picture, and a note."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import picture_models
import pytest
import safetensors
import torch
from safetensors.torch import save_file
from steered_models import Place, link

import graphengine
from graphengine import Context, Engine, Node, Ports
from graphengine.errors import CheckpointError, out_of_memory
from graphengine.events import NodeNote
from graphengine.models import autoencoder, clip, source, variant
from graphengine.models.checkpoint import find
from graphengine.models.families import stable_diffusion
from graphengine.models.memory import ModelMemory
from graphengine.models.weights import load_tensors
from graphengine.store.disk import DiskStore
from graphengine.testing import settings
from graphengine.values import Image, arrays

ROOT = Path(graphengine.__file__).parents[1]
HOST = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
MIB = 2**20
LOW = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
DRAW = {"seed": 1, "steps": 1, "guidance": 3.0, "sampler": "euler", "schedule": "simple"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """A checkpoint, a ControlNet, a LoRA, and a checkpoint that edits by instructions."""
    folder = tmp_path_factory.mktemp("models")
    made = Place(folder, "SD")
    picture_models.seeded(picture_models.instructed, folder / "instruct")
    width = made.pipe.unet.config.block_out_channels[-1]
    weights = {f"{LOW}.lora_down.weight": torch.randn(2, width), f"{LOW}.lora_up.weight": torch.randn(width, 2)}
    (folder / "loras").mkdir()
    save_file(weights, folder / "loras" / "low.safetensors")
    return made


def sampler(denoiser: str, positive: str, latent: str, negative: str = "negative", **more) -> dict:
    ends = {"positive": link(f"{positive}.conditioning"), "negative": link(f"{negative}.conditioning")}
    inputs = {"denoiser": link(f"{denoiser}.denoiser"), **ends, "latent": link(f"{latent}.latent"), **DRAW, **more}
    return {"type": "Sampler", "inputs": inputs}


def document() -> dict:
    """Every built-in kind of node that holds tensors or handles; each ends in a picture."""
    vae, encoder = link("vae.vae"), link("lora.text_encoder")
    nodes = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}},
        "vae": {"type": "LoadVAE", "inputs": {"vae": "model"}},
        "denoiser": {"type": "LoadDenoiser", "inputs": {"denoiser": "model"}},
        "words": {"type": "LoadTextEncoder", "inputs": {"text_encoder": "model"}},
        "lora": {
            "type": "LoadLora",
            "inputs": {
                "denoiser": link("denoiser.denoiser"),
                "text_encoder": link("words.text_encoder"),
                "lora": "low.safetensors",
                "text_strength": 0.0,
            },
        },
        "prompt": {"type": "EncodeText", "inputs": {"encoder": encoder, "text": "a red circle"}},
        "negative": {"type": "EncodeText", "inputs": {"encoder": link("load.text_encoder"), "text": ""}},
        "hint": {"type": "LoadImage", "inputs": {"file": "hint0.png"}},
        "net": {"type": "LoadControlNet", "inputs": {"control_net": "net0"}},
        "steer": {
            "type": "ApplyControlNet",
            "inputs": {
                "conditioning": link("prompt.conditioning"),
                "control_net": link("net.control_net"),
                "image": link("hint.image"),
            },
        },
        "canvas": {"type": "EmptyLatent", "inputs": {"vae": vae, "width": 64, "height": 64, "batch": 2}},
        "sample": sampler("lora", "steer", "canvas"),
        "enlarge": {"type": "ResizeLatent", "inputs": {"latent": link("sample.latent"), "width": 96, "height": 96}},
        "decode": {"type": "VAEDecode", "inputs": {"vae": vae, "latent": link("enlarge.latent")}},
        "encode": {"type": "VAEEncode", "inputs": {"vae": vae, "image": link("hint.image")}},
        "mask": {"type": "ChannelMask", "inputs": {"image": link("hint.image"), "channel": "red"}},
        "limit": {"type": "SetLatentMask", "inputs": {"latent": link("encode.latent"), "mask": link("mask.mask")}},
        "again": sampler("load", "prompt", "limit", denoise=0.5),
        "decode_limited": {"type": "VAEDecode", "inputs": {"vae": vae, "latent": link("again.latent")}},
        "hole": {
            "type": "InpaintLatent",
            "inputs": {"vae": vae, "image": link("hint.image"), "mask": link("mask.mask")},
        },
        "paint": sampler("load", "prompt", "hole"),
        "decode_painted": {"type": "VAEDecode", "inputs": {"vae": vae, "latent": link("paint.latent")}},
        "editor": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "instruct"}},
        "picture": {
            "type": "InstructLatent",
            "inputs": {"vae": link("editor.vae"), "image": link("hint.image")},
        },
        "order": {"type": "EncodeText", "inputs": {"encoder": link("editor.text_encoder"), "text": "a red circle"}},
        "edit": sampler("editor", "order", "picture", "order"),
        "decode_edited": {
            "type": "VAEDecode",
            "inputs": {"vae": link("editor.vae"), "latent": link("edit.latent")},
        },
    }
    return {"graphengine": 1, "name": "all", "nodes": nodes, "outputs": {"image": link("decode.image")}}


ENDS = {
    "decode": (
        "load",
        "vae",
        "denoiser",
        "words",
        "lora",
        "prompt",
        "negative",
        "hint",
        "net",
        "steer",
        "canvas",
        "sample",
        "enlarge",
        "decode",
    ),
    "decode_limited": ("encode", "mask", "limit"),
    "decode_painted": ("hole",),
    "decode_edited": ("picture",),
}
"""Nodes in which memory runs out, by the picture that comes of them."""
TILED = ("decode", "encode", "picture")
"""In smaller pieces an autoencoder sees a picture tile by tile, and another picture comes of random weights."""
CASES = [(node, end) for end, nodes in ENDS.items() for node in nodes]


def drawn(engine: Engine, end: str):
    """The picture of a node, and what was noted."""
    made = document() | {"outputs": {"image": link(f"{end}.image")}}
    run = engine.submit(made, targets=["image"])
    pixels = run.result(60)["image"].pixels
    notes = [(event.node, event.note) for event in run.events() if isinstance(event, NodeNote)]
    return pixels, notes, run.recipe()


@pytest.fixture(scope="module")
def engine(place):
    with Engine(settings=place.settings, cached=False) as made:
        yield made


@pytest.fixture(scope="module")
def plain(engine):
    """The pictures when there is memory enough."""
    return {end: drawn(engine, end)[0] for end in ENDS}


class Exhausted:
    """Lets a node of a workflow do its work, and run out of memory with all of it in hand, so many times."""

    def __init__(self, monkeypatch, kind: type[Node], node: str, times: int, error: BaseException):
        self.left, real, self.made = times, kind.run, []

        def run(self_, ctx: Context):
            outputs = real(self_, ctx)
            if ctx.node == node and self.left:
                self.left -= 1
                self.made += [weakref.ref(array) for array in arrays([*outputs.__dict__.values()])]
                raise type(error)(*error.args)  # a new one: an old one's traceback holds what was in hand
            return outputs

        monkeypatch.setattr(kind, "run", run)


@pytest.mark.parametrize(("node", "end"), CASES, ids=[node for node, _ in CASES])
def test_a_run_ends_with_its_picture_when_memory_runs_out_twice_in(engine, plain, monkeypatch, node, end):
    kind = engine.registry.find(document()["nodes"][node]["type"]).type
    drawn(engine, end)
    before = engine._tools.models.held
    exhausted = Exhausted(monkeypatch, kind, node, 2, RuntimeError(HOST))
    pixels, notes, recipe = drawn(engine, end)
    assert exhausted.left == 0
    assert [where for where, _ in notes] == [node, node]
    assert "let go of" in notes[0][1]
    assert "smaller pieces" in notes[1][1]
    assert recipe["notes"][node] == [note for _, note in notes]
    assert pixels.shape == plain[end].shape
    if node not in TILED:
        assert np.abs(pixels - plain[end]).max() < 0.02
    gc.collect()
    assert not [ref for ref in exhausted.made if ref() is not None]
    assert engine._tools.models.held <= before


FEW = {
    "ApplyIPAdapter",
    "AttendAndExcite",
    "AttentionMaps",
    "CLIPScore",
    "DDIMInversion",
    "DifferenceMask",
    "DistillDenoiser",
    "EncodeTextSeeing",
    "FeatureMaps",
    "LatentPreview",
    "ModelSchedule",
    "ModularBlock",
    "ModularDecode",
    "ModularDenoise",
    "ModularEncodeImage",
    "ModularEncodeText",
    "NullText",
    "PaintWindows",
    "ReferencePicture",
    "SamplerSteps",
    "Tokenize",
    "TrainDenoiser",
}
"""Nodes that work on a device by way of the same pieces (encoding, decoding, a denoiser's calls) as those above."""


def test_every_kind_of_node_that_works_on_a_device_is_among_them(engine):
    kinds = {info.name for info in engine.registry if info.plugin == "graphengine" and info.facts.lane == "gpu"}
    assert kinds <= {spec["type"] for spec in document()["nodes"].values()} | FEW


LOADING = [
    (source, "load_tensors"),
    (autoencoder, "diffusers_network"),
    (stable_diffusion, "diffusers_network"),
    (clip, "transformers_network"),
    (variant.lora, "read"),
    (variant, "twin"),
]


@pytest.mark.parametrize(
    ("owner", "name"), LOADING, ids=[f"{owner.__name__.split('.')[-1]}.{n}" for owner, n in LOADING]
)
@pytest.mark.parametrize("error", [RuntimeError(HOST), MemoryError("Cannot allocate memory (os error 12)")], ids=type)
def test_a_run_ends_with_its_picture_when_memory_runs_out_in_loading(engine, plain, monkeypatch, owner, name, error):
    real, left = getattr(owner, name), [error]

    def call(*arguments, **options):
        if left:
            raise left.pop()
        return real(*arguments, **options)

    engine._tools.models.release()
    monkeypatch.setattr(owner, name, call)
    pixels, notes, _ = drawn(engine, "decode")
    assert (len(notes), left) == (1, [])
    assert np.abs(pixels - plain["decode"]).max() < 0.02


def test_a_network_that_there_is_no_memory_to_build_is_not_called_damaged(place, monkeypatch):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    def build(*arguments, **options):
        raise RuntimeError(HOST)

    monkeypatch.setattr(AutoencoderKL, "from_config", build)
    with pytest.raises(RuntimeError, match="can't allocate") as caught:
        ModelMemory(place.settings).vae(find("model", place.settings).handles()[2])
    assert not isinstance(caught.value, CheckpointError)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError(HOST), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out_are_known(error, wanted):
    assert out_of_memory(error) is wanted
    wrapped = ValueError("something failed")
    wrapped.__cause__ = error
    assert out_of_memory(wrapped) is wanted


def test_a_file_that_cannot_be_mapped_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_file({"unet.a": torch.randn(3, 4), "unet.b": torch.randn(2).half(), "vae.c": torch.ones(1)}, path)
    mapped = load_tensors([path], torch.float32, "unet.")

    def refused(*_):
        raise MemoryError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr(safetensors, "safe_open", refused)
    read = load_tensors([path], torch.float32, "unet.")
    assert read.keys() == mapped.keys() == {"a", "b"}
    assert all(torch.equal(read[name], mapped[name]) for name in read)


def test_a_cache_entry_that_there_is_no_memory_to_read_is_not_called_damaged(tmp_path, monkeypatch):
    from graphengine.store import codec

    store, real = DiskStore(tmp_path, 2**20), codec.decode
    assert store.write(b"\xab" * 16, {"text": "kept"}, {})

    def decode(data):
        raise MemoryError

    monkeypatch.setattr(codec, "decode", decode)
    assert store.read(b"\xab" * 16) is None
    monkeypatch.setattr(codec, "decode", real)
    assert store.read(b"\xab" * 16) == {"text": "kept"}
    assert store.damaged == 0


def test_outputs_that_there_is_no_memory_to_keep_fail_no_run(tmp_path, monkeypatch):
    from graphengine.store import codec

    def encode(outputs, notes):
        raise MemoryError

    monkeypatch.setattr(codec, "encode", encode)
    assert not DiskStore(tmp_path, 2**20).write(b"\xab" * 16, {"text": "lost"}, {})


LIMITED = """
import json, resource, sys
from pathlib import Path
from graphengine import Engine
from graphengine.machine import give_back
from graphengine.testing import settings

own = settings(Path(sys.argv[1]))
workflow = json.loads(Path("workflows/text_to_image.json").read_text())
inputs = {"steps": 1, "width": 96, "height": 96}
with Engine(settings=own, cached=False) as engine:
    engine.submit(workflow, inputs).result()
    give_back()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 100 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    run = engine.submit(workflow, inputs | {"batch": 24})
    assert run.result()["image"].pixels.shape == (24, 96, 96, 3)
    print(json.dumps(run.recipe()["notes"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such limit, or do not keep it")
def test_a_batch_for_which_there_truly_is_no_memory_is_drawn_all_the_same(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    notes = json.loads(done.stdout.strip().splitlines()[-1])
    assert "smaller pieces" in notes["decode"][-1]


def test_on_a_device_weights_stay_on_the_host_before_anything_is_done_in_pieces(engine, plain, monkeypatch):
    monkeypatch.setattr(ModelMemory, "streams", property(lambda memory: True))
    kind = engine.registry.find("Sampler").type
    Exhausted(monkeypatch, kind, "sample", 3, torch.OutOfMemoryError("injected"))
    pixels, notes, _ = drawn(engine, "decode")
    words = ["let go of", "block by block", "smaller pieces"]
    assert [word in note for word, (_, note) in zip(words, notes, strict=True)] == [True] * 3
    assert np.abs(pixels - plain["decode"]).max() < 0.02


class Picture(Node):
    """Runs out of memory without any model."""

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        if not ctx.frugal:
            raise OSError(12, "Cannot allocate memory")
        return self.Outputs(image=Image(np.zeros((1, 8, 8, 3), np.float32)))


def test_memory_that_runs_out_without_a_model_loads_none(tmp_path):
    workflow = {
        "graphengine": 1,
        "name": "w",
        "nodes": {"n": {"type": "Picture"}},
        "outputs": {"i": {"from": "n.image"}},
    }
    with Engine(nodes=[Picture], settings=settings(tmp_path)) as engine:
        assert engine.submit(workflow).result()["i"].size == (8, 8)
        assert engine._tools.models._memory is None
