"""The document: what is read, what is written, what is refused."""

import json

import pytest

from graphengine import GraphError, Link, Workflow
from graphengine.workflow import parse_json

MINIMAL = {"graphengine": 1, "nodes": {"a": {"type": "Constant", "inputs": {"value": 1}}}}


def refused(text):
    with pytest.raises(GraphError) as caught:
        Workflow.load(text if isinstance(text, str) else json.dumps(text))
    return caught.value.problems


def test_a_document_comes_back_equal():
    source = MINIMAL | {"inputs": {"v": {"to": ["a.value", "a.value"]}}, "outputs": {"o": {"from": "a.value"}}}
    made = Workflow.load(source)
    assert Workflow.load(made.document()) == made


def test_a_workflow_knows_its_text_and_a_copy_that_differs_has_none():
    text = json.dumps(MINIMAL)
    made = Workflow.load(text)
    assert made.text == text
    assert made.with_inputs({("a", "value"): 2}).text == "" == Workflow.load(MINIMAL).text


def test_a_link_is_told_from_a_literal():
    made = Workflow.load(
        MINIMAL | {"nodes": {"b": {"type": "Add", "inputs": {"a": {"from": "a.value"}, "b": [1, {"from": "a.value"}]}}}}
    )
    assert made.nodes["b"].inputs == {"a": Link("a", "value"), "b": [1, Link("a", "value")]}


def test_a_name_that_stands_in_many_places_is_one_string():
    link = {"from": "a.value"}
    nodes = MINIMAL["nodes"] | {name: {"type": "Add", "inputs": {"a": link, "b": [link]}} for name in "bc"}
    made = Workflow.load(json.dumps(MINIMAL | {"nodes": nodes}))
    b, c = made.nodes["b"], made.nodes["c"]
    assert b.type is c.type
    assert b.inputs["a"].node is c.inputs["b"][0].node is next(iter(made.nodes))
    assert b.inputs["a"].port is c.inputs["b"][0].port


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "not_json"),
        ('{"graphengine": 1, "graphengine": 1, "nodes": {}}', "duplicate_key"),
        ('{"graphengine": 1, "nodes": {"a": {"type": "A", "inputs": {"x": NaN}}}}', "not_a_number"),
        ('{"graphengine": 1, "nodes": {"a": {"type": "A", "inputs": {"x": -Infinity}}}}', "not_a_number"),
        ('{"graphengine": 1, "nodes": {"a": {"type": "A", "inputs": {"x": 1e999}}}}', "not_a_number"),
        (
            '{"graphengine": 1, "nodes": {"a": {"type": "A", "inputs": {"x": 18446744073709551616}}}}',
            "integer_too_large",
        ),
        ('{"graphengine": 1, "nodes": {"a": {"type": "A", "inputs": {"x": ' + "9" * 5000 + "}}}}", "integer_too_large"),
        ('{"graphengine": 2, "nodes": {}}', "wrong_version"),
        ('{"graphengine": true, "nodes": {}}', "wrong_version"),
        ('{"nodes": {}}', "no_version"),
        ('{"graphengine": 1}', "no_nodes"),
        ('{"graphengine": 1, "nodes": []}', "wrong_form"),
        ('{"graphengine": 1, "nodes": {"a.b": {"type": "A"}}}', "bad_name"),
        ('{"graphengine": 1, "nodes": {"a": {}}}', "no_type"),
        ('{"graphengine": 1, "nodes": {"a": {"type": "A", "inputs": {"x": {"from": "b"}}}}}', "bad_link"),
        ('{"graphengine": 1, "nodes": {}, "node": {}}', "unknown_field"),
    ],
)
def test_faults_of_form_are_told(text, code):
    assert code in {problem.code for problem in refused(text)}


def test_json_a_hundred_thousand_levels_deep_is_refused():
    assert refused('{"graphengine": 1, "nodes": ' + "[" * 100_000 + "]" * 100_000 + "}")[0].code == "too_deep"


def test_json_a_hundred_levels_deep_is_refused():
    assert refused('{"graphengine": 1, "nodes": ' + "[" * 100 + "]" * 100 + "}")[0].code == "too_deep"


def test_the_largest_seed_is_no_fault():
    assert parse_json(f'{{"seed": {2**64 - 1}}}') == {"seed": 2**64 - 1}


def test_every_fault_is_told_at_once():
    text = {"graphengine": 3, "nodes": {"a": {"typ": "A"}, "b.": {"type": "B"}}}
    assert {problem.code for problem in refused(text)} == {"wrong_version", "unknown_field", "no_type", "bad_name"}


def test_a_misspelt_field_gets_a_hint():
    assert refused(MINIMAL | {"output": {}})[0].hint == "Did you mean outputs?"
