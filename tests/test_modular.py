"""Blocks of diffusers' modular pipelines as nodes: they draw what the pipeline draws, and need no network."""

import json
import shutil

import pytest
import torch
from families.harness import CONTROL, LIMIT, NEGATIVE, OTHER, PROMPT, SEED, STEPS, error, generator, library
from modular_models import MAKERS, SCALE, SIZE, all_in, drawn, engine_on, graph, link, made, no_connections

from graphengine import Context, Engine
from graphengine.blocks import ModularState
from graphengine.compose import Models
from graphengine.errors import Cancelled
from graphengine.events import NodeProgress
from graphengine.models.modular import component
from graphengine.models.modular import folder as folders
from graphengine.models.modular.pipeline import check_inputs, open_pipeline
from graphengine.models.modular.ports import INPUTS, OVERLAY, SUFFIX, UNTYPED
from graphengine.node import Services
from graphengine.nodes.modular import ModularDenoise  # pyright: ignore[reportMissingImports]
from graphengine.store import codec
from graphengine.testing import picture, settings

EQUAL = {"Z-Image": 1e-6, "LTX": 1e-6, "SDXL": LIMIT}
"""The greatest relative error: convolutions are summed up in another order here."""


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
