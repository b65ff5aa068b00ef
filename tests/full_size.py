"""Full-size single files with random weights: identified, loaded with the network refused, a picture each.

    python tests/full_size.py sd1 [FOLDER]     makes FOLDER/sd1.safetensors when it is not there, then loads it both ways
    python tests/full_size.py sdxl [FOLDER]

Prints CPU seconds and peak memory of loading, ours and those of diffusers' `from_single_file` with a local config, and
writes the picture that our graph makes.  Each loads in processes of its own, turn by turn, and the quicker of its two
counts: a virtual machine may have to ask for memory that it gave back, which whoever comes first then pays.
SDXL wants 7 GiB of disk and 20 GiB of memory.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).parents[1]
CONFIGS, TOKENIZER = ROOT / "graphengine/models/configs", ROOT / "graphengine/models/tokenizers/clip"
MODULES = (
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
)
"""Imported before the clock starts, on both sides."""
TURNS = 2
SIZES = {"sd1": 256, "sdxl": 256}
PIPELINES = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def make(model: str, path: Path) -> None:
    """Write a file with the names of the original code and random numbers in half precision."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes(model).items():
        if name.endswith("bias") or len(shape) == 1:
            scale = name.endswith("weight")
            tensors[name] = torch.full(shape, float(scale), dtype=torch.float16)
        else:
            fan = max(1, int(torch.tensor(shape[1:]).prod()))
            tensors[name] = (torch.randn(shape, generator=generator) / fan**0.5).half()
    save_file(tensors, path)


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file, out of the networks on no device and the tables of names turned round."""
    import torch

    ldm: Any = importlib.import_module("graphengine.models.ldm")
    texts: Any = importlib.import_module("graphengine.models.single_file").TEXTS[model]
    diffusers: Any = importlib.import_module("diffusers")
    transformers: Any = importlib.import_module("transformers")
    configs = json.loads((CONFIGS / f"{model}.json").read_text())
    made: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(configs["unet"])
        vae = diffusers.AutoencoderKL.from_config(configs["vae"])
        encoders = {
            part: getattr(transformers, configs[part]["architectures"][0])(transformers.CLIPTextConfig(**configs[part]))
            for part in texts
        }
    for network, table, prefix in (
        (unet, ldm.unet_table(configs["unet"]), "model.diffusion_model."),
        (vae, ldm.vae_table(configs["vae"]), "first_stage_model."),
    ):
        back = {new: old for old, new in table.items()}
        for name, tensor in network.state_dict().items():
            stem = name
            while stem not in back:
                stem = stem.rpartition(".")[0]
            shape = tuple(tensor.shape)
            square = ".mid_block.attentions." in f".{name}" and prefix.startswith("first") and len(shape) == 2
            made[prefix + back[stem] + name[len(stem) :]] = (*shape, 1, 1) if square else shape
    for part, prefix in texts.items():
        made |= text_shapes(encoders[part], prefix)
    return made


def text_shapes(encoder: Any, prefix: str) -> dict[str, tuple[int, ...]]:
    state = {name.removeprefix("text_model."): tuple(t.shape) for name, t in encoder.state_dict().items()}
    if not prefix.endswith(".model."):
        return {f"{prefix}text_model.{name}": shape for name, shape in state.items()}
    back = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    made = {}
    for name, shape in state.items():
        if name.startswith("encoder.layers."):
            number, _, rest = name.removeprefix("encoder.layers.").partition(".")
            here = f"{prefix}transformer.resblocks.{number}."
            if ".q_proj." in name:
                made[f"{here}attn.in_proj_{name.rpartition('.')[2]}"] = (3 * shape[0], *shape[1:])
            for old, new in back.items():
                if rest.startswith(old):
                    made[here + new + rest[len(old) :]] = shape
    width = state["final_layer_norm.weight"][0]
    made |= {f"{prefix}ln_final.{what}": (width,) for what in ("weight", "bias")}
    made[f"{prefix}token_embedding.weight"] = state["embeddings.token_embedding.weight"]
    made[f"{prefix}positional_embedding"] = state["embeddings.position_embedding.weight"]
    made[f"{prefix}text_projection"] = state.get("text_projection.weight", (width, width))
    return made


def refuse_network() -> None:
    """Whoever opens a connection fails."""

    def refused(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"a connection was opened: {arguments[1:]}")

    socket.socket.connect = refused  # type: ignore[method-assign] - it shall refuse
    socket.getaddrinfo = refused  # type: ignore[assignment] - it shall refuse


def local_config(model: str, folder: Path) -> Path:
    """The bundled configs as a folder in the diffusers layout, which `from_single_file` wants."""
    configs = json.loads((CONFIGS / f"{model}.json").read_text())
    index: dict[str, Any] = {"_class_name": PIPELINES[model]}
    for part, config in configs.items():
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part).mkdir(parents=True)
        (folder / part / name).write_text(json.dumps(config))
        library = "transformers" if part.startswith("text") else "diffusers"
        index[part] = [library, config.get("_class_name") or config["architectures"][0]]
        if part.startswith("text"):
            words = part.replace("text_encoder", "tokenizer")
            shutil.copytree(TOKENIZER, folder / words)
            index[words] = ["transformers", "CLIPTokenizer"]
    for absent in ("safety_checker", "feature_extractor", "image_encoder"):
        index[absent] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def load_ours(path: Path) -> None:
    """With the file's digest remembered, as it is from the second process on."""
    for module in MODULES:
        importlib.import_module(module)
    from graphengine.models.checkpoint import find
    from graphengine.models.memory import ModelMemory
    from graphengine.testing import settings

    own = settings(path.parent).model_copy(update={"model_folders": (path.parent,)})
    memory: Any = ModelMemory(own)
    find(path.name, own)
    started = time.process_time()
    denoiser, text, vae = find(path.name, own).handles()
    for load, handle in ((memory.denoiser, denoiser), (memory.text_encoder, text), (memory.vae, vae)):
        load(handle)
    tell(time.process_time() - started)


def load_theirs(path: Path) -> None:
    tell(their_pipeline(path)[1])


def their_pipeline(path: Path) -> tuple[Any, float]:
    """The pipeline of diffusers that a file is for, and the seconds of CPU time that it took to load."""
    diffusers: Any = importlib.import_module("diffusers")
    pipeline = getattr(diffusers, PIPELINES[path.stem])
    for module in (*MODULES, "diffusers.loaders.single_file"):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        config = local_config(path.stem, Path(folder))
        started = time.process_time()
        made = pipeline.from_single_file(str(path), config=str(config), local_files_only=True, safety_checker=None)
        return made, time.process_time() - started


def tell(seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "gib": peak}))


def draw(path: Path) -> None:
    """One picture by the graph, with the network refused."""
    import graphengine
    from graphengine import Engine
    from graphengine.testing import settings

    own = settings(path.parent).model_copy(update={"model_folders": (path.parent,)})
    workflow = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
    workflow["nodes"]["load"]["inputs"]["checkpoint"] = path.name
    inputs = {"prompt": "a red circle", "steps": 2, "width": SIZES[path.stem], "height": SIZES[path.stem]}
    with Engine(settings=own, cached=False) as engine:
        declared = {key: value for key, value in inputs.items() if key in graphengine.Workflow.load(workflow).inputs}
        made = engine.submit(workflow, declared).result()["image"]
    made.pil()[0].save(path.with_suffix(".png"))
    tell(0)


def read(path: Path) -> None:
    """Read a file, so that whoever loads it first finds it in memory like whoever comes second."""
    with path.open("rb", buffering=0) as file:
        while file.read(2**26):
            pass


def main(model: str, folder: Path) -> None:
    path = folder / f"{model}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(model, path)
    read(path)
    figures: dict[str, dict[str, float]] = {}
    for who in ("ours", "theirs") * TURNS + ("draw",):
        done = subprocess.run([sys.executable, __file__, who, str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{who} failed:\n{done.stderr[-3000:]}")
        told = json.loads(done.stdout.strip().splitlines()[-1])
        print(who, told, flush=True)
        figures[who] = min(figures.get(who, told), told, key=lambda each: each["seconds"])
    ours, theirs = figures["ours"], figures["theirs"]
    print(
        f"CPU time {ours['seconds'] / theirs['seconds']:.2f}x, peak memory {ours['gib'] / theirs['gib']:.2f}x of diffusers"
    )


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.gettempdir())
    if what in SIZES:
        main(what, place)
    else:
        sys.path.insert(0, str(Path(__file__).parent))
        refuse_network()
        {"ours": load_ours, "theirs": load_theirs, "draw": draw}[what](place)
