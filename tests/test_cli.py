"""The command line, called as people call it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from graphengine.cli import main, serve

ROOT = Path(__file__).parent.parent
QUICK = ["run", "text_to_image", "--steps", "2", "--prompt", "a red star on a white background"]


def call(*arguments):
    """Run a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0


@pytest.fixture
def picture(tmp_path, capsys):
    """A picture that the command line has made."""
    assert call(*QUICK, "--seed", "3") == 0
    return Path(capsys.readouterr().out.strip())


def test_run_prints_where_the_picture_is(picture):
    assert pillow.open(picture).size == (64, 64)


def test_a_declared_input_that_is_called_like_an_option_gets_another_name(tmp_path, capsys):
    nodes = {"a": {"type": "Text", "inputs": {"text": ""}}, "b": {"type": "Text", "inputs": {"text": ""}}}
    inputs = {"folder": {"to": "a.text"}, "json": {"to": "b.text"}}
    outputs = {"first": {"from": "a.text"}, "second": {"from": "b.text"}}
    document = {"graphengine": 1, "name": "taken", "inputs": inputs, "outputs": outputs, "nodes": nodes}
    path = tmp_path / "taken.json"
    path.write_text(json.dumps(document))
    assert call("run", str(path), "--folder", "one", "--input-json", "two") == 0
    assert capsys.readouterr().out.split("\n")[:2] == ["first: one", "second: two"]


def test_run_offers_the_declared_inputs_with_types_and_ranges(capsys):
    assert call("run", "text_to_image", "--help") == 0
    told = capsys.readouterr().out
    for word in ("--prompt", "--seed", "--guidance", "0<=x<=100", "1<=x<=1000", "what the picture shall show"):
        assert word in told


def test_an_input_out_of_range_is_refused(capsys):
    assert call("run", "text_to_image", "--steps", "0") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_option_that_the_workflow_does_not_declare_is_refused():
    assert call("run", "text_to_image", "--sead", "1") == 2


def test_a_second_run_computes_nothing(capsys):
    call(*QUICK)
    capsys.readouterr()
    assert call(*QUICK, "--json") == 0
    events = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["queued", "planned", "run_finished"]
    assert events[1]["work"] == []


def test_any_input_of_any_node_can_be_set(capsys):
    assert call(*QUICK, "--set", "sample.sampler=euler", "--set", "save.name=other") == 0
    assert "other_00001.png" in capsys.readouterr().out


def test_a_wrong_set_is_told(capsys):
    assert call(*QUICK, "--set", "sampel.steps=3") == 2
    assert "Did you mean sample?" in capsys.readouterr().err


def test_an_unknown_workflow_gets_a_hint(capsys):
    assert call("run", "text_to_imag") == 2
    assert "Did you mean text_to_image?" in capsys.readouterr().err


def test_check_tells_every_problem_and_exits_with_two(tmp_path, capsys):
    document = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
    document["nodes"]["sample"]["inputs"]["denoiser"] = {"from": "load.vae"}
    document["nodes"]["sample"]["inputs"]["stepps"] = 5
    (tmp_path / "bad.json").write_text(json.dumps(document))
    assert call("check", str(tmp_path / "bad.json")) == 2
    told = capsys.readouterr().err
    assert "sample.denoiser: wants Denoiser, got VAE from load.vae. Did you mean load.denoiser?" in told
    assert "Did you mean steps?" in told


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image", "inpaint"])
def test_the_workflows_that_ship_are_right(name):
    assert call("check", name, "--input-folder", str(ROOT)) == 0


def test_nodes_lists_and_shows(capsys):
    assert call("nodes") == 0
    assert "Sampler" in capsys.readouterr().out
    assert call("nodes", "Sampler") == 0
    assert "1 .. 1000" in capsys.readouterr().out
    assert call("nodes", "Sampel") == 2
    assert "Did you mean Sampler?" in capsys.readouterr().err


def test_words_that_the_model_does_not_know_are_told_and_stand_in_the_recipe(tmp_path, capsys):
    words = "--prompt", "a (shiny:1.2) red circle and a wombat", "--steps", "1", "--out", str(tmp_path)
    assert call("run", "text_to_image", *words) == 0
    told = "note prompt: tiny speaks a small language, in which there is no shiny, wombat."
    assert told in capsys.readouterr().err
    assert call("show", str(tmp_path / "text_to_image_00001.png")) == 0
    assert told in capsys.readouterr().out


def test_explain_says_which_input_changed_from_what_to_what(capsys):
    call(*QUICK)
    capsys.readouterr()
    assert (
        call(
            "explain",
            "text_to_image",
            "--input",
            "prompt=a red star on a white background",
            "--set",
            "sample.steps=5",
            "--json",
        )
        == 0
    )
    nodes = {entry["node"]: entry for entry in json.loads(capsys.readouterr().out)["nodes"]}
    assert nodes["sample"]["state"] == "miss" and nodes["sample"]["reason"] == "steps changed from 2 to 5."
    assert nodes["prompt"]["state"] == "hit"
    assert nodes["load"]["reason"] == "handles on models are made anew in every process."


@pytest.mark.parametrize("ending", ["svg", "png", "mmd"])
def test_draw_writes_the_graph(tmp_path, ending):
    target = tmp_path / f"graph.{ending}"
    assert call("draw", "inpaint", str(target)) == 0
    assert target.stat().st_size > 500


def test_draw_to_something_else_is_refused(tmp_path, capsys):
    assert call("draw", "inpaint", str(tmp_path / "graph.gif")) == 2
    assert ".svg" in capsys.readouterr().err


def test_show_prints_the_recipe(picture, capsys):
    assert call("show", str(picture)) == 0
    told = capsys.readouterr().out
    assert "a red star on a white background" in told and "seed=3" in told and "torch" in told


def test_a_picture_can_be_run_again(picture, capsys):
    assert call("run", str(picture), "--set", "save.name=again", "--no-cache") == 0
    again = Path(capsys.readouterr().out.strip())
    assert (np.asarray(pillow.open(again)) == np.asarray(pillow.open(picture))).all()


def test_verify_says_same_for_a_fresh_picture(picture, capsys):
    assert call("verify", str(picture)) == 0
    assert capsys.readouterr().out.startswith("same")


def test_verify_tells_a_picture_that_was_changed(picture, capsys):
    from graphengine.pictures import read_recipe, write_png

    changed = pillow.open(picture).convert("RGB")
    changed.putpixel((5, 5), (1, 2, 3))
    write_png(picture, changed, read_recipe(picture))
    assert call("verify", str(picture)) == 1
    assert "the picture itself was changed" in capsys.readouterr().out


def test_verify_names_a_package_and_a_model_that_changed(picture, capsys):
    from graphengine.pictures import read_recipe, write_png

    recipe = read_recipe(picture)
    recipe["packages"]["diffusers"] = "0.1.0"
    recipe["outside"]["load"]["digest"] = "0" * 32
    write_png(picture, pillow.open(picture).convert("RGB"), recipe)
    call("verify", str(picture))
    told = capsys.readouterr().err
    assert "package diffusers: was 0.1.0" in told and "load: the file or model it loads has changed" in told


def test_a_picture_without_a_recipe_is_told(tmp_path, capsys):
    pillow.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert call("show", str(tmp_path / "plain.png")) == 2
    assert "carries no recipe" in capsys.readouterr().err


def test_the_cache_can_be_measured_listed_verified_and_emptied(picture, capsys):
    for command in ("size", "list", "verify"):
        assert call("cache", command) == 0
    assert "0 damaged" in capsys.readouterr().out
    assert call("cache", "prune") == 0
    call("cache", "size")
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 entries")


def test_a_broken_plugin_is_listed(tmp_path, capsys):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "broken.py").write_text("import nothing_like_it")
    assert call("nodes") == 0
    assert "the plugin broken could not be loaded" in capsys.readouterr().err


def test_ctrl_c_stops_cleanly_and_loses_nothing(tmp_path):
    command = [sys.executable, "-m", "graphengine", "run", "text_to_image", "--steps", "1000", "--json"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"GRAPHENGINE_CACHE_FOLDER": str(tmp_path / "cache")},
    )
    assert process.stdout and process.stderr
    for row in process.stdout:
        if json.loads(row)["event"] == "node_progress":
            break
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    told = process.stderr.read()
    assert process.wait(30) == 130 and time.monotonic() - start < 20
    assert "what was finished is kept" in told and "Traceback" not in told
    assert not list((tmp_path / "output").glob("*")) if (tmp_path / "output").exists() else True


def test_without_uvloop_the_server_runs_on_asyncio(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert serve._loop() is asyncio.run
