"""The workflows that compare and choose: sweeps over samplers and scales, and the most faithful of several pictures."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphengine.nodes.faithfulness import BestOf, CheckPrompt  # pyright: ignore[reportMissingImports]
from graphengine.nodes.plot import Format, MakeCurve, Plot  # pyright: ignore[reportMissingImports]
from graphengine.nodes.sweep import SweepCurves, SweepTable  # pyright: ignore[reportMissingImports]
from graphengine.testing import run_node
from graphengine.training.parse import parse
from graphengine.training.scenes import caption, draw, random_scene
from graphengine.values import Curve, Image

PROMPTS = ["a large red circle on a blue background", "a green heart on a white background"]


# Captions


@given(st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_every_caption_is_understood(seed):
    scene = random_scene(np.random.default_rng(seed))
    found = parse(caption(scene))
    assert caption(found) == caption(scene)


def test_case_commas_and_articles_play_no_role():
    assert parse("A Large Orange star,  on an blue background.") == parse("an large orange star on a blue background")


@pytest.mark.parametrize(
    "text", ["", "a cat", "a red circle", "a red circle on a mauve background", "red on blue background"]
)
def test_what_is_none_of_the_language_is_told(text):
    with pytest.raises(ValueError, match="the checker reads"):
        parse(text)


# Measuring


def drawn(*texts: str) -> Image:
    pictures = [draw(parse(text), np.random.default_rng(i)) for i, text in enumerate(texts)]
    return Image(np.stack(pictures).astype(np.float32) / 255)


def test_drawn_pictures_are_right_and_others_are_not():
    made = run_node(CheckPrompt, image=drawn(*PROMPTS), prompts=PROMPTS)
    assert made.scores == [1.0, 1.0] and made.accuracy == 1
    swapped = run_node(CheckPrompt, image=drawn(*PROMPTS), prompts=PROMPTS[::-1])
    assert swapped.accuracy == 0 and "background wrong" in swapped.told[0]


def test_as_many_prompts_as_pictures_are_wanted():
    with pytest.raises(ValueError, match="3 prompts for 2 pictures"):
        run_node(CheckPrompt, image=drawn(*PROMPTS), prompts=PROMPTS + PROMPTS[:1])


def test_the_best_of_several_is_the_one_with_the_greatest_score():
    image = drawn(*PROMPTS)
    made = run_node(BestOf, image=image, scores=[0.2, 0.7])
    assert made.index == 1 and (made.image.pixels == image.pixels[1:]).all()


def test_choosing_raises_faithfulness(engine, workflows):
    document = json.loads((workflows / "faithfulness.json").read_text())
    wanted = {
        "steps": 2,
        "guidance": 0.5,
        "count": 8,
        "prompt": "an orange heart left of a white ring on a black background",
    }
    made = engine.submit(document, wanted).result(60)
    assert made["score"] == max(made["scores"]) > np.mean(made["scores"])


# Sweeps


def test_one_more_row_computes_only_that_row(engine, workflows):
    document = json.loads((workflows / "scheduler_comparison.json").read_text())
    cell = json.loads((workflows / "sampling_accuracy.json").read_text())
    cell["nodes"]["prompts"]["inputs"]["items"] = PROMPTS
    for name in ("pictures", "labels", "accuracy"):
        document["nodes"][name]["inputs"]["workflow"] = cell
    engine.submit(document, {"samplers": ["euler"], "steps": [1, 2]}).result(120)
    run = engine.submit(document, {"samplers": ["euler", "dpmpp_2m"], "steps": [1, 2]})
    made = run.result(120)
    started = {event.node for event in run.events() if event.event == "node_started" and event.node.endswith("/sample")}
    assert {node.split("/")[1] for node in started} == {"row2column1", "row2column2"}
    assert made["table"].count("\n") == 3


def test_a_table_has_a_line_for_each_row():
    made = run_node(SweepTable, rows=["a", "b"], columns=[1, 2.5], results=[1, 2, 3, 4], corner="x")
    assert made.table.splitlines() == ["| x | 1 | 2.5 |", "|---|---|---|", "| a | 1 | 2 |", "| b | 3 | 4 |"]


def test_rows_become_curves():
    made = run_node(SweepCurves, rows=["a", "b"], columns=[1.0, 2.0], results=[0.1, 0.2, 0.3, 0.4])
    assert made.curves == [Curve("a", (1, 2), (0.1, 0.2)), Curve("b", (1, 2), (0.3, 0.4))]


@pytest.mark.parametrize("node", [SweepTable, SweepCurves])
def test_results_that_fill_no_table_are_refused(node):
    with pytest.raises(ValueError, match="do not give 3 results"):
        run_node(node, rows=["a", "b"], columns=[1.0, 2.0], results=[0.1, 0.2, 0.3])


def test_a_sweep_goes_over_plain_values_only(engine, workflows):
    document = json.loads((workflows / "scheduler_comparison.json").read_text())
    document["nodes"]["rows"]["inputs"]["items"] = [["euler"]]
    with pytest.raises(Exception, match="not a list"):
        engine.submit(document, {}).result(60)


# Plots and texts


def test_a_curve_wants_as_many_x_as_y():
    with pytest.raises(ValueError, match="2 x and 1 y"):
        run_node(MakeCurve, x=[1.0, 2.0], y=[1.0])


def test_a_plot_shows_its_curve():
    flat = run_node(Plot, curves=[Curve("a", (0, 1), (0, 0))], width=200, height=150).image.pixels
    steep = run_node(Plot, curves=[Curve("a", (0, 1), (0, 1))], width=200, height=150).image.pixels
    assert flat.shape == steep.shape == (1, 150, 200, 3) and (flat != steep).any()


def test_nothing_is_not_plotted():
    with pytest.raises(ValueError, match="nothing to plot"):
        run_node(Plot, curves=[Curve("a", (), ())])


def test_values_are_written_into_a_text():
    assert run_node(Format, template="{0}: {1:.0%}", values=["a", 0.25]).text == "a: 25%"


@pytest.mark.parametrize("template", ["{0.__class__}", "{0[1]}", "{3}", "{name}", "{", "{0:d}"])
def test_a_template_that_cannot_be_filled_in_is_told(template):
    with pytest.raises(ValueError, match="template"):
        run_node(Format, template=template, values=["a"])
