"""Pipelines as blocks: what is said when a block, a port or a folder is not what it should be, and what is refused."""

import json
import shutil

import pytest
from modular_models import all_in, engine_on, graph, link, made, no_connections

from graphengine import Context, Engine, NodeError
from graphengine.compose import Models
from graphengine.errors import CheckpointError
from graphengine.models.modular import folder as folders
from graphengine.node import Services
from graphengine.nodes.modular import ModularBlock  # pyright: ignore[reportMissingImports]
from graphengine.testing import settings


@pytest.fixture(scope="module", autouse=True)
def no_network():
    with no_connections():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return all_in(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def engine(root):
    with engine_on(root) as engine:
        yield engine


def fault(engine, nodes, output="decode.image"):
    with pytest.raises(NodeError) as caught:
        made(engine, nodes, output)
    return str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"block": "denois"}, "has no block 'denois'. Did you mean denoise?"),
        ({"block": "denoise.text2image.denoise.denoiser"}, "is a part of the loop denoise.text2image.denoise"),
        ({"block": "denoise", "inputs": {"stepz": 3}}, "the block denoise has no input 'stepz'"),
        ({"block": "denoise", "inputs": {"strenght": 0.5}}, "Did you mean strength?"),
        ({"block": "text_encoder", "inputs": {"prompt": 3}}, "prompt of the block text_encoder wants str, got int 3"),
        ({"block": "denoise", "inputs": {"height": "large"}}, "height of the block denoise wants int, got str"),
        ({"block": "denoise", "inputs": {"image_latents": 1}}, "wants Tensor, got int 1. That cannot be written"),
        ({"block": "decode"}, "Required input 'latents' is missing. Write it, or link a state that has it"),
    ],
)
def test_a_block_that_is_not_there_or_is_given_something_odd_says_what_is_right(engine, inputs, said):
    own = {"pipeline": link("load.pipeline"), **inputs}
    assert said in fault(engine, graph("Z-Image") | {"block": {"type": "ModularBlock", "inputs": own}}, "block.state")


def test_a_port_that_the_pipeline_does_not_have_is_refused(engine):
    told = "the block denoise of this pipeline takes no frames; it takes width, height, steps, seed, count, strength, guidance"
    assert told in fault(engine, graph("Z-Image", frames=9))


def test_what_another_pipeline_has_made_is_refused(engine):
    nodes = graph("Z-Image") | {"other": {"type": "LoadModular", "inputs": {"folder": "SDXL"}}}
    nodes["denoise"]["inputs"]["pipeline"] = link("other.pipeline")
    assert "was made by another pipeline than SDXL" in fault(engine, nodes)


def test_pictures_that_a_state_does_not_hold_are_told(engine):
    own = {"state": link("prompt.embeddings"), "output": "image"}
    nodes = graph("Z-Image") | {"picture": {"type": "ModularPicture", "inputs": own}}
    assert "the state holds no 'image'. There is prompt," in fault(engine, nodes, "picture.image")
    nodes["picture"]["inputs"]["output"] = "prompt_embeds"
    assert "prompt_embeds is no picture but a Tensor" in fault(engine, nodes, "picture.image")


def copied(root, tmp_path):
    """A copy of the small Z-Image in a model folder of its own."""
    folder = shutil.copytree(root / "Z-Image", tmp_path / "model")
    return folder, settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)})


def test_a_component_that_is_not_in_the_folder_is_named(root, tmp_path):
    folder, own = copied(root, tmp_path)
    shutil.rmtree(folder / "vae")
    nodes = graph("Z-Image")
    nodes["load"]["inputs"]["folder"] = "model"
    with Engine(settings=own) as engine:
        assert "the block decode uses vae, and no such folder lies in model" in fault(engine, nodes)


def test_a_folder_that_is_not_there_or_holds_no_pipeline_is_told(engine, root, tmp_path):
    with pytest.raises(CheckpointError, match=r"no pipeline 'Z-Imag'.*Did you mean Z-Image"):
        folders.find("Z-Imag", settings(root).model_copy(update={"model_folders": (root,)}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither modular_model_index\.json nor model_index\.json in it"):
        folders.at(tmp_path / "empty", settings(tmp_path))
    nodes = graph("Z-Image")
    nodes["load"]["inputs"]["folder"] = "tiny"
    assert "'StableDiffusionPipeline', for which diffusers has no modular pipeline" in fault(engine, nodes)


CODE = "import pathlib; pathlib.Path({!r}).touch()"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("modular_config.json", {"auto_map": {"ModularPipelineBlocks": "own.Blocks"}}),
        ("model_index.json", {"_class_name": ["own", "Pipeline"]}),
        ("model_index.json", {"vae": ["own", "Autoencoder"]}),
        ("model_index.json", {"vae": ["diffusers", "ModularPipeline"]}),
        ("modular_model_index.json", {"_class_name": "ModularPipeline", "_blocks_class_name": "OwnBlocks"}),
        ("vae/config.json", {"auto_map": {"AutoModel": "own.Autoencoder"}}),
    ],
)
def test_code_that_a_folder_names_is_refused_and_not_run(root, tmp_path, file, said):
    folder, own = copied(root, tmp_path)
    for place in (folder / "own.py", folder / "vae" / "own.py"):
        place.write_text(CODE.format(str(tmp_path / "canary")))
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | said))
    nodes = graph("Z-Image")
    nodes["load"]["inputs"]["folder"] = "model"
    with (
        Engine(settings=own) as engine,
        pytest.raises(Exception, match=r"code that a model names is never run|Code that"),
    ):
        made(engine, nodes, "decode.image")
    assert not (tmp_path / "canary").exists()


def test_pickles_and_components_that_lie_elsewhere_are_refused(root, tmp_path):
    folder, own = copied(root, tmp_path)
    (weights,) = (folder / "vae").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="is a pickle"):
        folders.find("model", own)
    index = {
        "_class_name": "ZImageModularPipeline",
        "vae": ["diffusers", "AutoencoderKL", {"subfolder": "../../other"}],
    }
    (folder / "modular_model_index.json").write_text(json.dumps(index))
    with pytest.raises(Exception, match="lies outside the folder 'model'"):
        folders.find("model", own)


def test_a_folder_that_changed_since_the_run_was_planned_fails_the_run(engine, root, tmp_path):
    folder, own = copied(root, tmp_path)
    (handle,) = made(engine, graph("Z-Image"), "load.pipeline")
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    moved = type(handle)(handle.checkpoint, handle.digest, handle.family, str(folder), pipeline=handle.pipeline)
    with pytest.raises(CheckpointError, match="was changed while the run went on"):
        ModularBlock(pipeline=moved).run(Context("node", Services(own, Models(own))))


def test_a_package_that_is_missing_is_named(engine, monkeypatch):
    from diffusers.modular_pipelines.z_image import encoders

    monkeypatch.setattr(encoders, "get_qwen_prompt_embeds", lambda **options: ftfy.fix_text(""))  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
    told = "the block text_encoder needs the package ftfy. Install it: pip install ftfy"
    assert told in fault(engine, graph("Z-Image", "a prompt that is not kept"))
