"""Graph.build: every problem at once, with its place and a hint; and nothing that depends on depth."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes_for_tests import NODES, Constant, chain, workflow

from graphengine import Context, Node, Ports, Settings
from graphengine.errors import GraphError
from graphengine.fingerprint import Fingerprinter
from graphengine.graph import Graph, _different
from graphengine.registry import Registry
from graphengine.workflow import Workflow


@pytest.fixture
def registry():
    made = Registry()
    made.extend(NODES)
    return made


def problems(registry, made):
    with pytest.raises(GraphError) as caught:
        Graph.build(made, registry)
    return {problem.code: problem for problem in caught.value.problems}


def test_every_problem_is_reported_at_once(registry):
    made = workflow(
        {
            "one": ("Constat", {}),
            "two": ("Add", {"a": "five", "c": 1}),
            "three": ("Constant", {"value": 10**12}),
            "four": ("Add", {"a": "@two.valu"}),
        }
    )
    with pytest.raises(GraphError) as caught:
        Graph.build(made, registry)
    codes = [problem.code for problem in caught.value.problems]
    assert sorted(codes) == ["no_port", "unknown_input", "unknown_type", "wrong_value", "wrong_value"]


def test_an_unknown_type_gets_a_hint(registry):
    found = problems(registry, workflow({"one": ("Constat", {})}))
    assert str(found["unknown_type"]) == "one: there is no node type 'Constat'. Did you mean Constant?"


def test_a_wrong_type_names_the_port_that_would_fit(registry):
    found = problems(
        registry, workflow({"one": ("Count", {}), "two": ("Choose", {"first": "@one.numbers", "a": 1, "b": 2})})
    )
    assert str(found["wrong_type"]).startswith("two.first: wants bool, got list[int] from one.numbers.")


def test_a_missing_input_is_named(registry):
    found = problems(registry, workflow({"two": ("Add", {})}))
    assert str(found["missing_input"]) == "two.a: wants int, got nothing."


def test_a_cycle_is_named_by_its_nodes(registry):
    made = workflow({"a": ("Add", {"a": "@c.value"}), "b": ("Add", {"a": "@a.value"}), "c": ("Add", {"a": "@b.value"})})
    assert "a -> b -> c -> a" in problems(registry, made)["cycle"].message


def test_a_node_behind_a_cycle_is_not_blamed_for_it(registry):
    made = workflow({"a": ("Add", {"a": "@b.value"}), "b": ("Add", {"a": "@a.value"}), "c": ("Add", {"a": "@b.value"})})
    with pytest.raises(GraphError) as caught:
        Graph.build(made, registry)
    assert len(caught.value.problems) == 1


def test_a_link_to_nothing_gets_a_hint(registry):
    found = problems(registry, workflow({"source": ("Constant", {}), "two": ("Add", {"a": "@sorce.value"})}))
    assert found["no_node"].hint == "Did you mean source?"


def test_tasks_come_in_topological_order(registry):
    graph = Graph.build(workflow({"b": ("Add", {"a": "@a.value"}), "a": ("Constant", {})}), registry)
    assert [task.id for task in graph.tasks] == ["a", "b"]


def test_a_chain_of_a_hundred_thousand_nodes_is_checked(registry):
    assert len(Graph.build(chain(100_000), registry).tasks) == 100_000


def test_a_cycle_of_fifty_thousand_nodes_is_found(registry):
    nodes = {f"n{i}": ("Add", {"a": f"@n{i - 1}.value"}) for i in range(1, 50_000)}
    nodes["n0"] = ("Add", {"a": "@n49999.value"})
    assert "n0" in problems(registry, workflow(nodes))["cycle"].message


def test_what_changed_in_literals_only_is_found(registry):
    graph = Graph.build(chain(5), registry)
    changed = graph.changed(chain(5, last=7), registry)
    assert changed is not None and changed[1] == [4]


def test_the_same_text_is_the_same_graph(registry):
    text = json.dumps(chain(3).document())
    graph = Graph.build(Workflow.load(text), registry)
    assert graph.changed(Workflow.load(text), registry) == (graph, [])


def test_the_same_text_with_an_inner_workflow_is_built_anew_for_that_may_have_changed(registry):
    text = json.dumps(workflow({"inner": ("workflow.other", {})}, {"value": "inner.value"}).document())
    found = [workflow({"one": ("Constant", {"value": 1})}, {"value": "one.value"})]
    graph = Graph.build(Workflow.load(text), registry, lambda name: found[0])
    assert graph.changed(Workflow.load(text), registry) is None


def test_a_changed_link_is_no_small_change(registry):
    graph = Graph.build(chain(3), registry)
    other = chain(3).with_inputs({("n2", "a"): 4})
    assert graph.changed(other, registry) is None


def test_a_change_to_something_wrong_is_refused(registry):
    graph = Graph.build(chain(3), registry)
    with pytest.raises(GraphError, match=r"n2\.b"):
        graph.changed(chain(3).with_inputs({("n2", "b"): "no"}), registry)


def test_declared_inputs_and_outputs_are_checked(registry):
    made = workflow({"a": ("Constant", {})}, {"x": "b.value"}, inputs={"seed": {"to": "a.vale"}})
    found = problems(registry, made)
    assert found["no_node"].port == "outputs.x" and found["no_port"].port == "inputs.seed"


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0.0, -0.0), ([1], [True]), ({"a": 1}, {"a": 1.0})])
def test_values_that_python_thinks_equal_are_told_apart(before, after):
    class Anything(Node):
        """Takes anything."""

        x: Any

        class Outputs(Ports):
            text: str

        def run(self, ctx: Context) -> Outputs:
            return self.Outputs(text=repr(self.x))

    made = Registry()
    made.add(Anything)
    graph = Graph.build(workflow({"a": ("Anything", {"x": before})}), made)
    changed = graph.changed(workflow({"a": ("Anything", {"x": after})}), made)
    assert changed is not None and changed[1] == [0]
    assert changed[0].tasks[0].static != graph.tasks[0].static


def test_the_order_in_which_inputs_are_written_is_no_part_of_the_key(registry):
    first = Graph.build(workflow({"a": ("Add", {"a": 1, "b": 2})}), registry)
    second = Graph.build(workflow({"a": ("Add", {"b": 2, "a": 1})}), registry)
    assert first.tasks[0].static == second.tasks[0].static


def test_a_literal_beside_links_in_a_list_is_part_of_the_key(registry):
    def static(number):
        nodes = {"c": ("Constant", {}), "t": ("Total", {"numbers": ["@c.value", number]})}
        return Graph.build(workflow(nodes), registry).tasks[1].static

    assert static(1) != static(2)


def test_where_the_links_of_a_list_stand_is_part_of_the_key():
    class Gaps(Node):
        """Takes numbers and gaps."""

        numbers: list[int | None]
        Outputs = Constant.Outputs

        def run(self, ctx: Context) -> Ports:
            return Constant.Outputs(value=len(self.numbers))

    made = Registry()
    made.extend([Constant, Gaps])

    def static(numbers):
        return Graph.build(workflow({"c": ("Constant", {}), "g": ("Gaps", {"numbers": numbers})}), made).tasks[1].static

    assert static(["@c.value", None]) != static([None, "@c.value"])


def test_a_value_is_told_apart_when_other_nodes_shift_the_types_around_it(registry):
    nodes = {"a": ("Total", {"numbers": [1, True]}), "b": ("Add", {"a": 1}), "c": ("Total", {"numbers": [True, 1]})}
    other = {"a": ("Total", {"numbers": [1]}), "b": ("Add", {"a": True}), "c": ("Total", {"numbers": [1, True, 1]})}
    assert _different(workflow(nodes), workflow(other)) == ["a", "b", "c"]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 7), st.integers(0, 50))
def test_a_graph_changed_in_place_equals_one_built_anew(additions, where, number):
    made = Registry()
    made.extend(NODES)
    nodes: dict[str, Any] = {"n0": ("Constant", {"value": 1})}
    for i, back in enumerate(additions, 1):
        nodes[f"n{i}"] = ("Add", {"a": f"@n{max(0, i - 1 - back)}.value", "b": i})
    first = Graph.build(workflow(nodes), made)
    name = f"n{where % len(additions) + 1}"
    second = workflow(nodes).with_inputs({(name, "b"): number})
    changed, built = first.changed(second, made), Graph.build(second, made)
    assert changed is not None and [t.static for t in changed[0].tasks] == [t.static for t in built.tasks]
    printer = Fingerprinter(Settings())
    assert printer.rekey(printer.keys(first), *changed).keys == printer.keys(built).keys
