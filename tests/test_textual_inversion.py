"""Learned words: equal to diffusers' textual inversion, told from what is none, and known to nobody else."""

import copy
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from families import flux, stable_diffusion, stable_diffusion_xl
from families.harness import LIMIT, error
from families.stable_diffusion import tokenizer
from safetensors.torch import save_file

from graphengine import Engine
from graphengine.errors import CheckpointError
from graphengine.models import textual_inversion
from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.models.variant import variant
from graphengine.testing import settings
from graphengine.values import Patch

MAKERS = {"SD": partial(stable_diffusion.make, "epsilon"), "SDXL": stable_diffusion_xl.base}
WIDTHS = {"SD": [32], "SDXL": [32, 48]}
CLOSE = 1e-6
PROMPTS = [
    "a <thing>",
    "<thing>, a large red circle with a <thing> on a blue background and <other>",
    "star " * 12 + "<thing> <other> a red star",
    "a<thing>star",
    "<thing>",
    "a red star",
]


def vectors(width: int, count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


class Place:
    """A small checkpoint, and two words for it: one of three vectors, one of one."""

    def __init__(self, folder: Any, family: str):
        torch.manual_seed(0)
        self.folder, self.family = folder, family
        self.pipe = MAKERS[family](folder / "model")
        (folder / "embeddings").mkdir()
        self.words = {
            "thing": [vectors(w, 3, w) for w in WIDTHS[family]],
            "other": [vectors(w, 1, w + 1) for w in WIDTHS[family]],
        }
        for word, own in self.words.items():
            if family == "SD":
                tensors = {"emb_params": own[0]} if word == "thing" else {"<anything>": own[0][0]}
            else:
                tensors = {"clip_l": own[0], "clip_g": own[1]}
            save_file(tensors, folder / "embeddings" / f"{word}.safetensors")
        self.settings = settings(folder).model_copy(update={"model_folders": (folder,)})

    def theirs(self, prompt: str) -> dict[str, torch.Tensor]:
        """What the pipeline's encoders make of a prompt, with both words loaded."""
        pipe = self.taught
        with torch.no_grad():
            made = pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
        return {"features": made[0], **({"pooled": made[2]} if self.family == "SDXL" else {})}

    @property
    def taught(self) -> Any:
        if not hasattr(self, "_taught"):
            pipe = self._taught = type(self.pipe)(
                **{
                    name: copy.deepcopy(part) if name.startswith(("text_encoder", "tokenizer")) else part
                    for name, part in self.pipe.components.items()
                }
            )
            sides = [(pipe.tokenizer, pipe.text_encoder)]
            sides += [(pipe.tokenizer_2, pipe.text_encoder_2)] if self.family == "SDXL" else []
            for place, (words, encoder) in enumerate(sides):
                for word, own in self.words.items():
                    pipe.load_textual_inversion({word: own[place]}, f"<{word}>", tokenizer=words, text_encoder=encoder)
        return self._taught

    def run(self, prompts: list[str], *words: str) -> list[Any]:
        """The conditionings of prompts, by an encoder that knows words, all in one workflow."""
        nodes: dict[str, Any] = {"load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}}}
        last = "load"
        for word in words:
            inputs = {"text_encoder": {"from": f"{last}.text_encoder"}, "embedding": f"{word}.safetensors"}
            nodes[word] = {"type": "LoadEmbedding", "inputs": inputs}
            last = word
        for number, prompt in enumerate(prompts):
            for name, source in (("made", last), ("plain", "load")):
                inputs = {"encoder": {"from": f"{source}.text_encoder"}, "text": prompt}
                nodes[f"{name}{number}"] = {"type": "EncodeText", "inputs": inputs}
        outputs = {
            f"{name}{n}": {"from": f"{name}{n}.conditioning"} for n in range(len(prompts)) for name in ("made", "plain")
        }
        with Engine(settings=self.settings, cached=False) as engine:
            made = engine.submit({"graphengine": 1, "name": "w", "nodes": nodes, "outputs": outputs}).result()
        return [(made[f"made{n}"], made[f"plain{n}"]) for n in range(len(prompts))]


@pytest.fixture(scope="module", params=list(MAKERS))
def place(request, tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("sd"), "SD")


def test_a_prompt_with_learned_words_is_encoded_as_diffusers_does_it(place):
    for prompt, (ours, plain) in zip(PROMPTS, place.run(PROMPTS, "thing", "other"), strict=True):
        theirs = place.theirs(prompt)
        assert error(ours.features, theirs["features"]) < CLOSE
        if "pooled" in theirs:
            assert error(ours.extras["pooled"], theirs["pooled"]) < CLOSE
        if "<" in prompt:
            assert error(plain.features, theirs["features"]) > 0.01
        else:
            assert torch.equal(ours.features, plain.features)


def test_an_encoder_beside_it_reads_bit_for_bit_what_it_reads_alone(place):
    together = [plain for _, plain in place.run(PROMPTS[:2], "thing", "other")]
    alone = [plain for _, plain in place.run(PROMPTS[:2])]
    for first, second in zip(together, alone, strict=True):
        assert torch.equal(first.features, second.features)
        assert all(torch.equal(tensor, second.extras[name]) for name, tensor in first.extras.items())


def patch(path: Any, words: str) -> Patch:
    return Patch("words", words, (), path.name, str(path))


@pytest.fixture(scope="module")
def plain(sd) -> Any:
    return ModelMemory(sd.settings).text_encoder(find("model", sd.settings).handles()[1])


def test_nothing_that_is_shared_is_written_to(plain, sd):
    before = {name: tensor.clone() for name, tensor in plain._encoder.network.state_dict().items()}
    known = len(plain._encoder._tokenizer)
    made = variant(plain, (patch(sd.folder / "embeddings" / "thing.safetensors", "<thing>"),))
    made.encode("a <thing>")
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain._encoder.network.state_dict().items())
    assert len(plain._encoder._tokenizer) == known
    table = made._encoder.network.get_input_embeddings()
    assert table.weight is plain._encoder.network.get_input_embeddings().weight
    assert table.own.shape == (3, 32)


def test_the_order_of_embeddings_plays_no_role(plain, sd):
    first, second = (
        patch(sd.folder / "embeddings" / f"{word}.safetensors", f"<{word}>") for word in ("thing", "other")
    )
    made = [variant(plain, order).encode("<thing> and <other>") for order in ((first, second), (second, first))]
    assert torch.equal(made[0].features, made[1].features)


def test_a_word_of_ones_own_and_those_of_the_files_name_mean_the_same(plain, sd):
    path = sd.folder / "embeddings" / "thing.safetensors"
    default = textual_inversion.words_of("", "styles/thing.safetensors")
    assert default == "<thing>\nembedding:thing"
    made = variant(plain, (patch(path, default),))
    own = variant(plain, (patch(path, textual_inversion.words_of(" blob ", "thing.safetensors")),))
    wanted = made.encode("a <thing>, red").features
    for same in ("a <Thing>, red", "a embedding:thing, red"):
        assert torch.equal(made.encode(same).features, wanted)
    assert torch.equal(own.encode("a blob, red").features, wanted)
    assert torch.equal(own.encode("a blobby star").features, plain.encode("a blobby star").features)


def test_clip_skip_goes_with_it_in_whatever_order(sd):
    handle = find("model", sd.settings).handles()[1]
    memory = ModelMemory(sd.settings)
    skip, word = Patch("clip_skip", "1", (1.0,)), patch(sd.folder / "embeddings" / "thing.safetensors", "<thing>")
    first, second = handle.patched(skip).patched(word), handle.patched(word).patched(skip)
    assert first == second
    made = memory.text_encoder(first).encode("a <thing>").features
    assert not torch.equal(made, memory.text_encoder(handle.patched(word)).encode("a <thing>").features)


def test_tokens_are_told_with_those_of_learned_words_below_zero(plain, sd):
    made = variant(plain, (patch(sd.folder / "embeddings" / "thing.safetensors", "<thing>"),))._encoder
    told = made.read("a <Thing> star")
    assert [number for number, _ in told[2:5]] == [-1, -2, -3] and {name for _, name in told[2:5]} == {"<Thing>"}
    assert told[:2] + told[5:] == plain._encoder.read("a star")
    assert [place for place in made.places("a <Thing> star") if place] == [(0, 1), *[(2, 9)] * 3, (10, 14)]


def test_words_that_do_not_fit_are_told(plain, sd):
    made = variant(plain, (patch(sd.folder / "embeddings" / "thing.safetensors", "<thing>"),))
    length = plain._encoder._length
    cut = made.encode("star " * (length - 4) + "<thing> circle").cut
    assert cut == ("<thing>", "circle")


def test_the_pooled_prompt_ends_at_its_end_where_the_config_has_an_old_mark(tmp_path):
    """Such networks pool at the highest id, which must not be a learned vector's."""
    torch.manual_seed(0)
    pipe = stable_diffusion_xl.base(tmp_path / "model")
    config = tmp_path / "model" / "text_encoder_2" / "config.json"
    save_file({"clip_l": vectors(32, 2, 0), "clip_g": vectors(48, 2, 1)}, tmp_path / "thing.safetensors")
    own = settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)})
    pooled = []
    assert pipe.text_encoder_2.config.eos_token_id == tokenizer().eos_token_id == len(tokenizer()) - 1
    for mark in (tokenizer().eos_token_id, 2):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": mark}))
        adapter = ModelMemory(own).text_encoder(find("model", own).handles()[1])
        made = variant(adapter, (patch(tmp_path / "thing.safetensors", "<thing>"),))
        pooled.append(made.encode("a <thing> star").extras["pooled"])
    assert error(pooled[1], pooled[0]) < LIMIT


# What is refused


def test_vectors_of_another_width_are_refused(place, tmp_path):
    adapter = ModelMemory(place.settings).text_encoder(find("model", place.settings).handles()[1])
    wide = tmp_path / "wide.safetensors"
    for tensors in (
        {"emb_params": torch.zeros(1, 768)},
        {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)},
    ):
        save_file(tensors, wide)
        with pytest.raises(CheckpointError, match=r"of width 768.* of this model read 32.*made for another model"):
            variant(adapter, (patch(wide, "<wide>"),))
    if place.family == "SDXL":
        save_file({"emb_params": torch.zeros(1, 32)}, wide)
        with pytest.raises(CheckpointError, match="read 32 and 48"):
            variant(adapter, (patch(wide, "<wide>"),))


def test_two_embeddings_cannot_share_a_word(plain, sd):
    both = [
        patch(sd.folder / "embeddings" / f"{name}.safetensors", word)
        for name, word in (("thing", "<X>"), ("other", "<x>"))
    ]
    with pytest.raises(CheckpointError, match="two embeddings have the word"):
        variant(plain, tuple(both))


def test_a_model_that_reads_prompts_by_something_else_too_is_refused(tmp_path, sd):
    torch.manual_seed(0)
    flux.CASES[0].make(tmp_path / "model")
    own = settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)})
    adapter = ModelMemory(own).text_encoder(find("model", own).handles()[1])
    with pytest.raises(CheckpointError, match="CLIP text encoders alone; this model has T5"):
        variant(adapter, (patch(sd.folder / "embeddings" / "thing.safetensors", "<thing>"),))


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"a": torch.zeros(1, 4), "b": torch.zeros(1, 4)}, "it holds a, b; expected one tensor, or clip_l and clip_g"),
        ({"clip_l": torch.zeros(1, 4), "text_encoders_0": torch.zeros(1, 4)}, "is no embedding of a CLIP"),
        ({"x": torch.zeros(2, 2, 2)}, r"has the shapes? \(2, 2, 2\)|the shapes \(2, 2, 2\)"),
        ({"x": torch.zeros(76, 2)}, "more than 75 vectors"),
        ({"x": torch.zeros(0, 2)}, "is no embedding"),
        ({"x": torch.zeros(2, 2, dtype=torch.int32)}, "no finite fractions"),
        ({"x": torch.full((2, 2), torch.nan)}, "no finite fractions"),
    ],
)
def test_a_file_that_is_no_embedding_is_refused(tmp_path, tensors, match):
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=match):
        textual_inversion.read(tmp_path / "odd.safetensors")


def test_a_pickle_is_refused_and_a_misspelt_name_is_told_with_the_nearest(sd):
    (sd.folder / "embeddings" / "old.pt").write_bytes(b"PK")
    for name, match in (("old.pt", "pickle"), ("thingy.safetensors", r"Did you mean thing\.safetensors")):
        nodes = {
            "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}},
            "learn": {
                "type": "LoadEmbedding",
                "inputs": {"text_encoder": {"from": "load.text_encoder"}, "embedding": name},
            },
        }
        with Engine(settings=sd.settings) as engine, pytest.raises(Exception, match=match):
            engine.submit({"graphengine": 1, "name": "w", "nodes": nodes}).result()


@pytest.mark.parametrize("word", [" ", "a\nb"])
def test_a_word_that_no_prompt_holds_is_refused(word):
    with pytest.raises(ValueError, match="no word that a prompt could hold"):
        textual_inversion.words_of(word, "x")


def test_a_changed_file_is_another_key(tmp_path):
    torch.manual_seed(0)
    place = Place(tmp_path, "SD")
    path = tmp_path / "embeddings" / "thing.safetensors"
    made = []
    for seed in (1, 2):
        save_file({"emb_params": vectors(32, 2, seed)}, path)
        with Engine(settings=place.settings) as engine:
            nodes = {
                "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}},
                "learn": {
                    "type": "LoadEmbedding",
                    "inputs": {"text_encoder": {"from": "load.text_encoder"}, "embedding": "thing.safetensors"},
                },
                "encode": {
                    "type": "EncodeText",
                    "inputs": {"encoder": {"from": "learn.text_encoder"}, "text": "a <thing>"},
                },
            }
            outputs = {"made": {"from": "encode.conditioning"}}
            document = {"graphengine": 1, "name": "w", "nodes": nodes, "outputs": outputs}
            made.append(engine.submit(document).result()["made"].features)
    assert error(made[1], made[0]) > 0.01


def test_the_workflow_draws_another_picture_with_the_word(sd, workflows):
    document = json.loads((workflows / "textual_inversion.json").read_text())
    size = {"width": 64, "height": 64, "steps": 2, "checkpoint": "model", "embedding": "thing.safetensors"}

    def drawn(prompt: str, **more: Any) -> np.ndarray:
        with Engine(settings=sd.settings, cached=False) as engine:
            return engine.submit(document, size | {"prompt": prompt} | more).result()["image"].pixels

    plain, learned, own = drawn("a red"), drawn("a red <thing>"), drawn("a red blob", word="blob")
    assert abs(plain - learned).max() > 0
    assert (learned == own).all()
