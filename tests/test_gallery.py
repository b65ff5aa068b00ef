"""The gallery's list: what it names is there, and what is not there is told before anything is drawn."""

import json

import pytest

from graphengine.cli import main
from graphengine.gallery import page
from graphengine.gallery.exhibits import EXHIBITS, Exhibit
from graphengine.gallery.figures import measure


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.workflow)
def test_every_exhibit_is_a_workflow_with_these_outputs_and_a_function_that_measures_it(exhibit, workflows):
    document = json.loads((workflows / f"{exhibit.workflow}.json").read_text())
    assert {*exhibit.outputs} <= {*document["outputs"]} and {*exhibit.inputs} <= {*document["inputs"]}
    assert measure(exhibit.figures).__name__ == exhibit.figures


def test_a_function_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="no function 'wisdom' that measures"):
        measure("wisdom")


def test_the_command_ends_before_it_draws_when_a_function_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "EXHIBITS", (Exhibit("text_to_image", "", "", figures="wisdom"),))
    with pytest.raises(SystemExit) as ended:
        main(["gallery", "text_to_image", "--folder", str(tmp_path)])
    assert ended.value.code == 2 and "no function 'wisdom'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
