"""Graph.build: every problem at once, with its place and a hint; and nothing that depends on depth."""

import pytest
from nodes_for_tests import NODES, chain, workflow

from graphengine.errors import GraphError
from graphengine.graph import Graph
from graphengine.registry import Registry


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


def test_a_changed_link_is_no_small_change(registry):
    graph = Graph.build(chain(3), registry)
    other = chain(3).with_inputs({("n2", "a"): 4})
    assert graph.changed(other, registry) is None


def test_a_change_to_something_wrong_is_refused(registry):
    graph = Graph.build(chain(3), registry)
    with pytest.raises(GraphError, match=r"n2\.b"):
        graph.changed(chain(3).with_inputs({("n2", "b"): "no"}), registry)


def test_literals_of_different_types_have_different_keys(registry):
    from graphengine.graph import _canonical

    assert len({_canonical(value) for value in (1, 1.0, "1", True, [1], {"a": 1}, None)}) == 7


def test_declared_inputs_and_outputs_are_checked(registry):
    made = workflow({"a": ("Constant", {})}, {"x": "b.value"}, inputs={"seed": {"to": "a.vale"}})
    found = problems(registry, made)
    assert found["no_node"].port == "outputs.x" and found["no_port"].port == "inputs.seed"
