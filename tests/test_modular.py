"""Blocks of diffusers' modular pipelines as nodes: they draw what the pipeline draws, offline, and refuse what is wrong."""

import json
import shutil
import socket

import pytest
import torch
from families import stable_diffusion_xl, z_image
from families.harness import CONTROL, LIMIT, NEGATIVE, OTHER, PROMPT, SEED, STEPS, error, generator, library
from families.language import lively
from families.vocabulary import t5_encoder, t5_tokenizer

from graphengine import Context, Engine, NodeError
from graphengine.blocks import ModularState
from graphengine.compose import Models
from graphengine.errors import Cancelled, CheckpointError
from graphengine.events import NodeProgress
from graphengine.models.modular import component
from graphengine.models.modular import folder as folders
from graphengine.models.modular.pipeline import check_inputs, open_pipeline
from graphengine.models.modular.ports import INPUTS, OVERLAY, SUFFIX, UNTYPED
from graphengine.node import Services
from graphengine.nodes.modular import ModularBlock, ModularDenoise  # pyright: ignore[reportMissingImports]
from graphengine.store import codec
from graphengine.testing import picture, settings

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

EQUAL = {"Z-Image": 1e-6, "LTX": 1e-6, "SDXL": LIMIT}
"""The greatest relative error: convolutions are summed up in another order here."""


@pytest.fixture(scope="module", autouse=True)
def no_network():
    """Whoever opens a connection fails."""

    def refused(*arguments, **options):
        raise AssertionError(f"a connection was opened: {arguments[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model folder with a small random pipeline of each family."""
    root = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        make(root / name)
    return root


@pytest.fixture(scope="module")
def engine(root):
    with Engine(settings=settings(root).model_copy(update={"model_folders": (root,)})) as engine:
        yield engine


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


def pipeline(folder):
    """What diffusers itself makes of a folder."""
    diffusers = library("diffusers")
    pipe = diffusers.ModularPipeline.from_pretrained(str(folder))
    pipe.load_components(dtype=torch.float32)
    pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=SCALE))
    return pipe


@pytest.mark.parametrize("family", MAKERS)
def test_the_nodes_draw_what_the_modular_pipeline_draws(engine, root, family):
    frames = {"num_frames": 9} if family == "LTX" else {}
    words = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "generator": generator(), "num_inference_steps": STEPS}
    theirs = pipeline(root / family)(**words, **SIZE[family], **frames, output_type="np")
    latents, pixels = drawn(engine, family)
    expected = torch.tensor(theirs.videos if frames else theirs.images).reshape(pixels.shape)
    assert error(latents, theirs.latents) < EQUAL[family]
    assert error(pixels, expected) < 1e-6
    for change in ({"prompt": OTHER}, {"seed": SEED + 1}):
        assert error(drawn(engine, family, **change)[0], theirs.latents) > CONTROL


def test_blocks_one_by_one_draw_bit_for_bit_what_the_roles_draw(engine):
    nodes, state = graph("Z-Image"), {"pipeline": link("load.pipeline"), "seed": SEED, "guidance": SCALE}
    inner = [f"denoise.text2image.{name}" for name in ("input", "prepare_latents", "set_timesteps", "denoise")]
    inputs = {
        "text_encoder": {"prompt": PROMPT, "negative_prompt": NEGATIVE},
        inner[1]: SIZE["Z-Image"],
        inner[2]: {"num_inference_steps": STEPS},
        "decode": {"output_type": "np"},
    }
    for number, block in enumerate(["text_encoder", *inner, "decode"]):
        before = {"state": link(f"block{number - 1}.state")} if number else {}
        own = state | before | {"block": block, "inputs": inputs.get(block, {})}
        nodes[f"block{number}"] = {"type": "ModularBlock", "inputs": own}
    nodes["picture"] = {"type": "ModularPicture", "inputs": {"state": link("block5.state")}}
    one, other = made(engine, nodes, "decode.image", "picture.image")
    assert (one.pixels == other.pixels).all()


def test_the_whole_pipeline_is_a_block_too(engine):
    inputs = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": STEPS, **SIZE["Z-Image"]}
    own = {"pipeline": link("load.pipeline"), "inputs": inputs, "seed": SEED, "guidance": SCALE}
    nodes = graph("Z-Image") | {"whole": {"type": "ModularBlock", "inputs": own}}
    nodes["picture"] = {"type": "ModularPicture", "inputs": {"state": link("whole.state")}}
    one, other = made(engine, nodes, "decode.image", "picture.image")
    assert abs(one.pixels - other.pixels).max() <= 1 / 255  # by way of a picture of 8 bits


def test_picture_i_of_several_is_drawn_from_seed_plus_i(engine):
    several, _ = drawn(engine, "Z-Image", count=2)
    singles = torch.cat([drawn(engine, "Z-Image", seed=SEED + each)[0] for each in (0, 1)])
    assert error(several, singles) < 1e-6


def test_a_picture_to_start_from_counts_as_in_the_pipeline(engine, root):
    nodes = graph("Z-Image", picture=link("encode.latents"), strength=0.5)
    nodes["picture"] = {"type": "LoadImage", "inputs": {"file": "start.png"}}
    start = picture(64, 32)
    start.pil()[0].save(root / "start.png")
    own = {"pipeline": link("load.pipeline"), "image": link("picture.image"), "seed": 3}
    nodes["encode"] = {"type": "ModularEncodeImage", "inputs": own}
    encoded, latents = made(engine, nodes, "encode.latents", "denoise.latents")
    pipe = pipeline(root / "Z-Image")
    encoder = pipe.blocks.sub_blocks["vae_encoder"].init_pipeline(str(root / "Z-Image"))
    encoder.update_components(vae=pipe.vae)
    known = encoder(image=start.pil()[0], generator=torch.Generator().manual_seed(3), output="image_latents")
    words = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "strength": 0.5, "num_inference_steps": STEPS}
    theirs = pipe(**words, image_latents=known, generator=generator(), output="latents")
    assert error(encoded.values["image_latents"], known) < 1e-6
    assert error(latents.values["latents"], theirs) < 1e-6
    assert error(drawn(engine, "Z-Image")[0], theirs) > 1e-3


def test_a_folder_with_a_modular_index_is_opened_without_looking_where_that_points(engine, root):
    folder = shutil.copytree(root / "Z-Image", root / "with_index")
    said = json.loads((folder / "model_index.json").read_text())
    there = {"pretrained_model_name_or_path": "somebody/elsewhere", "variant": None, "revision": None}
    index = {
        name: [*value, {"type_hint": value, "subfolder": name, **there}] if isinstance(value, list) else value
        for name, value in said.items()
    }
    index |= {"_class_name": "ZImageModularPipeline", "_blocks_class_name": "ZImageAutoBlocks"}
    (folder / "modular_model_index.json").write_text(json.dumps(index))
    (folder / "model_index.json").unlink()
    nodes = graph("Z-Image")
    nodes["load"]["inputs"]["folder"] = "with_index"
    (image,) = made(engine, nodes, "decode.image")
    assert torch.equal(torch.tensor(image.pixels), drawn(engine, "Z-Image")[1])


def test_a_node_holds_the_weights_of_no_more_than_it_uses(root):
    own = settings(root).model_copy(update={"model_folders": (root,)})
    with Engine(settings=own, cached=False) as engine:
        held = [
            made(engine, graph("Z-Image"), output) and parts(engine)
            for output in ("prompt.embeddings", "denoise.latents")
        ]
    assert held == [{"text_encoder", "tokenizer"}, {"text_encoder", "tokenizer", "transformer"}]


def parts(engine):
    return {part for _, part in engine._tools.models._parts}


def test_weights_leave_when_the_budget_is_small_and_the_picture_is_the_same(engine, root):
    own = settings(root).model_copy(update={"model_folders": (root,), "model_budget": 1})
    with Engine(settings=own, cached=False) as small:
        (image,) = made(small, graph("Z-Image"), "decode.image")
        assert parts(small) == {"vae"}
    assert torch.equal(torch.tensor(image.pixels), drawn(engine, "Z-Image")[1])


def test_layers_that_a_network_wants_exact_stay_in_float32(root, monkeypatch):
    kind = library("diffusers").ZImageTransformer2DModel
    monkeypatch.setattr(kind, "_keep_in_fp32_modules", ["cap_embedder"])
    folder = folders.at(root / "Z-Image", settings(root))
    network = component.load(folder, "transformer", kind, "cpu", torch.bfloat16).value
    exact = {name.partition(".")[0] for name, each in network.named_parameters() if each.dtype == torch.float32}
    assert exact == {"cap_embedder"}


def test_every_step_is_told(engine):
    run = engine.submit(
        {"graphengine": 1, "name": "w", "nodes": graph("LTX", seed=99), "outputs": {"i": link("decode.image")}}
    )
    run.result(60)
    steps = [(event.done, event.total) for event in run.events() if isinstance(event, NodeProgress)]
    assert steps == [(done, STEPS) for done in range(STEPS + 1)]


def test_a_cancel_lands_inside_a_step(engine, root, monkeypatch):
    from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock

    handle, embeddings = made(engine, graph("Z-Image"), "load.pipeline", "prompt.embeddings")
    layers, real = [], ZImageTransformerBlock.forward

    def forward(self, *arguments, **options):
        layers.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(ZImageTransformerBlock, "forward", forward)
    own = settings(root).model_copy(update={"model_folders": (root,)})
    context = Context("node", Services(own, Models(own), cancelled=lambda: bool(layers)))
    with pytest.raises(Cancelled):
        ModularDenoise(pipeline=handle, embeddings=embeddings, steps=2, **SIZE["Z-Image"]).run(context)
    assert len(layers) == 1
    assert torch.is_grad_enabled()  # what was switched off for the block is on again


def test_a_run_ends_with_its_picture_when_memory_runs_out(engine, monkeypatch):
    from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock

    left, real = [MemoryError()], ZImageTransformerBlock.forward

    def forward(self, *arguments, **options):
        if left:
            raise left.pop()
        return real(self, *arguments, **options)

    nodes = graph("Z-Image", seed=5)
    expected = drawn(engine, "Z-Image", seed=5)[1]
    monkeypatch.setattr(ZImageTransformerBlock, "forward", forward)
    with Engine(settings=engine.settings, cached=False) as other:
        run = other.submit({"graphengine": 1, "name": "w", "nodes": nodes, "outputs": {"i": link("decode.image")}})
        assert torch.equal(torch.tensor(run.result(60)["i"].pixels), expected)
    assert "let go of" in run.recipe()["notes"]["denoise"][0]


def test_what_a_block_takes_and_gives_is_told(engine):
    nodes = graph("Z-Image")
    own = {"pipeline": link("load.pipeline"), "block": "denoise"}
    (text,) = made(engine, nodes | {"tell": {"type": "DescribeModular", "inputs": own}}, "tell.text")
    for line in ("input strength: float, 0.6", "output latents: Tensor", "block denoise.text2image"):
        assert line in text
    assert "component transformer: ZImageTransformer2DModel, in the folder" in text


def test_embeddings_come_back_from_the_disk_as_they_were(engine):
    (state,) = made(engine, graph("Z-Image"), "prompt.embeddings")
    back = codec.decode(codec.encode({"state": state}, {}))[0]["state"]
    assert type(back) is type(state) and back.groups == state.groups
    assert all(
        torch.equal(*pair) for pair in zip(back.values["prompt_embeds"], state.values["prompt_embeds"], strict=True)
    )
    with pytest.raises(codec.NotStorable):
        codec.encode({"state": ModularState("p", {"size": (64, 64)})}, {})


def test_the_overlay_says_what_diffusers_ships():
    diffusers = library("diffusers")
    ships = {name.removesuffix(SUFFIX) for name in dir(diffusers) if name.endswith(SUFFIX)} - {""}
    assert ships == set(OVERLAY) | set(UNTYPED)
    for name, roles in OVERLAY.items():
        blocks = getattr(diffusers, getattr(diffusers, name + SUFFIX).default_blocks_name)()
        for role in roles.values():
            block = blocks.sub_blocks[role.block]
            wanted = [INPUTS[port] for port in role.ports if port in INPUTS] + [(each,) for each in role.always]
            assert all(set(names) & set(block.input_names) for names in wanted), (name, role)
            assert not role.gives or role.gives in block.intermediate_output_names, (name, role)
            assert "guider" not in role.ports or "guider" in blocks.component_names, (name, role)


@pytest.mark.parametrize(
    ("said", "pipeline"),
    [
        ({"_class_name": "ErnieImagePipeline"}, "ErnieImage"),
        ({"_class_name": "WanPipeline", "boundary_ratio": 0.9}, "Wan22"),
        ({"_class_name": "Flux2KleinPipeline", "is_distilled": False}, "Flux2KleinBase"),
        ({"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "StableDiffusionXL"),
    ],
)
def test_an_ordinary_index_is_opened_as_the_modular_pipeline_of_its_model(tmp_path, said, pipeline):
    (tmp_path / "model_index.json").write_text(json.dumps(said))
    assert open_pipeline(folders.at(tmp_path, settings(tmp_path))).handle().pipeline == pipeline + SUFFIX


def test_what_an_inner_block_is_chosen_by_may_be_written():
    block = library("diffusers").ErnieImageAutoBlocks().sub_blocks["prompt_enhancer"]
    assert "use_pe" not in block.input_names
    check_inputs("prompt_enhancer", block, {"use_pe": True})
    with pytest.raises(ValueError, match="has no input 'use_pee'"):
        check_inputs("prompt_enhancer", block, {"use_pee": True})


def test_the_workflow_draws_with_a_person_s_own_folder(engine, workflows):
    size = {"steps": 2, "checkpoint": "Z-Image", "guidance": SCALE, **SIZE["Z-Image"]}
    first, second = (
        engine.submit(workflows / "modular.json", size | {"prompt": words}).result(60)["image"]
        for words in (PROMPT, OTHER)
    )
    assert first.size == (64, 32)
    assert abs(first.pixels - second.pixels).max() > 0


# What is wrong


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
