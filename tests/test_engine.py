"""Runs: what is computed, what is not, in which order, and how they end."""

import gc
import json
import threading

import pytest
from nodes_for_tests import NODES, Wait, calls, chain, workflow

from graphengine import Cancelled, Engine, GraphError, NodeError, events
from graphengine.testing import settings


@pytest.fixture
def engine(tmp_path):
    calls.clear()
    Wait.started.clear()
    Wait.let_go.clear()
    with Engine(nodes=NODES, settings=settings(tmp_path)) as made:
        yield made
        Wait.let_go.set()


def result(engine, made, **inputs):
    return engine.submit(made, inputs).result(60)


def test_a_chain_gives_its_sum(engine):
    assert result(engine, chain(50)) == {"value": 49}


def test_a_chain_of_a_hundred_thousand_nodes_runs(engine):
    assert result(engine, chain(100_000)) == {"value": 99_999}


def test_a_large_graph_that_was_just_built_is_not_walked_by_the_garbage_collector(engine):
    made, walked = chain(2000), []

    def look(phase, info):
        if phase == "start" and info["generation"] == 0:
            walked.append(len(gc.get_objects(generation=0)))

    result(engine, chain(1))
    gc.collect()
    gc.callbacks.append(look)
    try:
        result(engine, made)
    finally:
        gc.callbacks.remove(look)
    assert max(walked, default=0) < 2000  # a graph has several objects a node


def test_the_same_workflow_again_computes_nothing(engine):
    result(engine, chain(10))
    calls.clear()
    assert result(engine, chain(10)) == {"value": 9}
    assert calls == []


def test_a_run_whose_results_lie_in_memory_has_ended_when_it_is_submitted(engine):
    result(engine, chain(10))
    again = engine.submit(chain(10))
    assert again.status == "finished" and again.result(0) == {"value": 9}
    kinds = [event.event for event in again.events()]
    assert kinds == ["queued", "planned", "run_finished"]


def test_a_workflow_is_compared_with_the_last_one_of_its_kind(engine):
    for last in (1, 2, 3):
        text = json.dumps(chain(10, last=last).document())
        result(engine, text)
        (kept,) = [graph.workflow.text for graph, _ in engine._recent.values()]
        assert kept == text


def test_what_has_to_be_computed_is_not_computed_where_it_is_submitted(engine):
    waiting = workflow({"wait": ("Wait", {"number": 3})}, {"value": "wait.value"})
    Wait.let_go.set()
    result(engine, waiting)
    Wait.let_go.clear()
    Wait.started.clear()
    other = engine.submit(waiting.with_inputs({("wait", "number"): 4}))
    assert Wait.started.wait(10) and other.status == "running"
    Wait.let_go.set()
    assert other.result(10) == {"value": 4}


def test_the_same_text_again_computes_nothing_and_another_only_what_it_changes(engine):
    text = json.dumps(chain(10).document())
    result(engine, text)
    calls.clear()
    assert result(engine, text) == {"value": 9} and calls == []
    assert result(engine, text.replace('"b": 1', '"b": 2')) != {"value": 9} and calls != []


def test_a_changed_literal_computes_only_what_depends_on_it(engine):
    result(engine, chain(10))
    calls.clear()
    assert result(engine, chain(10).with_inputs({("n7", "b"): 5})) == {"value": 13}
    assert calls == ["n7", "n8", "n9"]


def test_a_value_is_computed_once_however_many_read_it(engine):
    nodes = {"one": ("Constant", {"value": 2}), **{f"r{i}": ("Add", {"a": "@one.value", "b": i}) for i in range(5)}}
    nodes["total"] = ("Total", {"numbers": [f"@r{i}.value" for i in range(5)]})
    assert result(engine, workflow(nodes, {"sum": "total.value"})) == {"sum": 20}
    assert calls.count("one") == 1


def test_a_list_maps_over_a_node_and_is_collected_by_a_list(engine):
    made = workflow(
        {
            "count": ("Count", {"n": 4}),
            "add": ("Add", {"a": "@count.numbers", "b": 10}),
            "total": ("Total", {"numbers": "@add.value"}),
        },
        {"each": "add.value", "sum": "total.value"},
    )
    assert result(engine, made) == {"each": [10, 11, 12, 13], "sum": 46}


def test_one_item_more_computes_one_item(engine):
    def sweep(n):
        return workflow({"count": ("Count", {"n": n}), "add": ("Add", {"a": "@count.numbers"})}, {"each": "add.value"})

    result(engine, sweep(3))
    calls.clear()
    assert result(engine, sweep(4)) == {"each": [1, 2, 3, 4]}
    assert calls == ["add"]


def test_only_the_chosen_input_is_computed(engine):
    made = workflow(
        {
            "x": ("Constant", {"value": 1}),
            "y": ("Constant", {"value": 2}),
            "pick": ("Choose", {"first": False, "a": "@x.value", "b": "@y.value"}),
        },
        {"value": "pick.value"},
    )
    assert result(engine, made) == {"value": 2}
    assert calls == ["y"]


def test_ten_thousand_lazy_choices_in_a_row_do_not_recurse(engine):
    nodes = {"c0": ("Constant", {"value": 7})}
    nodes |= {f"c{i}": ("Choose", {"first": True, "a": f"@c{i - 1}.value", "b": 0}) for i in range(1, 10_000)}
    assert result(engine, workflow(nodes, {"value": "c9999.value"})) == {"value": 7}


def test_an_expansion_takes_the_place_of_its_node(engine):
    made = workflow(
        {"more": ("AddTimes", {"a": 5, "times": 3}), "end": ("Add", {"a": "@more.value"})}, {"value": "end.value"}
    )
    assert result(engine, made) == {"value": 9}


def test_two_thousand_nested_expansions_do_not_recurse(engine):
    assert result(engine, workflow({"more": ("AddTimes", {"a": 0, "times": 2000})}, {"value": "more.value"})) == {
        "value": 2000
    }


def test_an_expansion_is_cached_like_any_node(engine):
    made = workflow({"more": ("AddTimes", {"a": 5, "times": 3})}, {"value": "more.value"})
    result(engine, made)
    calls.clear()
    result(engine, made)
    assert calls == []


def test_targets_limit_what_is_computed(engine):
    made = workflow(
        {"a": ("Constant", {}), "b": ("Add", {"a": "@a.value"}), "c": ("Add", {"a": "@a.value"})},
        {"b": "b.value", "c": "c.value"},
    )
    assert engine.submit(made, targets=["b"]).result(10) == {"b": 1}
    assert "c" not in calls


def test_an_unknown_target_gets_a_hint(engine):
    with pytest.raises(GraphError, match="Did you mean n2"):
        engine.submit(chain(3), targets=["n22"]).result(10)


def test_a_node_that_is_never_cached_salts_what_reads_it(engine):
    made = workflow({"r": ("Random", {}), "add": ("Add", {"a": "@r.value"})}, {"value": "add.value"})
    assert result(engine, made) != result(engine, made)


def test_a_failing_node_is_named_and_what_was_done_is_kept(engine):
    made = workflow({"a": ("Constant", {}), "bad": ("Fail", {"a": "@a.value"})}, {"value": "bad.value"})
    with pytest.raises(NodeError, match="bad: Fail failed: it cannot be done") as caught:
        result(engine, made)
    assert isinstance(caught.value.__cause__, ValueError)
    calls.clear()
    with pytest.raises(NodeError):
        result(engine, made)
    assert calls == []


def test_cancel_lands_inside_a_node(engine):
    run = engine.submit(workflow({"wait": ("Wait", {})}, {"value": "wait.value"}))
    assert Wait.started.wait(10)
    run.cancel()
    with pytest.raises(Cancelled):
        run.result(10)
    assert run.status == "cancelled"


def test_a_cancelled_run_lets_another_compute_the_same(engine):
    made = workflow({"wait": ("Wait", {})}, {"value": "wait.value"})
    first = engine.submit(made)
    assert Wait.started.wait(10)
    second = engine.submit(made)
    first.cancel()
    Wait.let_go.set()
    assert second.result(10) == {"value": 0}


def test_two_runs_compute_the_same_node_once(engine):
    made = workflow({"wait": ("Wait", {"number": 3})}, {"value": "wait.value"})
    runs = [engine.submit(made) for _ in range(3)]
    assert Wait.started.wait(10)
    Wait.let_go.set()
    assert [run.result(10) for run in runs] == [{"value": 3}] * 3
    assert calls == ["wait"]


def test_runs_do_not_wait_for_each_other(engine):
    slow = engine.submit(workflow({"wait": ("Wait", {})}, {"value": "wait.value"}))
    assert Wait.started.wait(10)
    assert result(engine, chain(5)) == {"value": 4}
    assert slow.status == "running"


def test_events_tell_the_run_in_order_and_can_be_read_again(engine):
    run = engine.submit(chain(2))
    run.result(10)
    names = [event.event for event in run.events()]
    assert names == [
        "queued",
        "planned",
        "node_started",
        "node_finished",
        "node_started",
        "node_finished",
        "run_finished",
    ]
    assert [event.seq for event in run.events(after=4)] == [5, 6]


def test_a_listener_hears_progress_while_the_node_works(engine):
    run = engine.submit(workflow({"wait": ("Wait", {})}, {"value": "wait.value"}))
    heard = threading.Event()

    def listen():
        for event in run.events():
            if isinstance(event, events.NodeProgress):
                heard.set()

    threading.Thread(target=listen, daemon=True).start()
    assert heard.wait(10)
    Wait.let_go.set()


def test_the_plan_names_hits_and_work(engine):
    result(engine, chain(4))
    run = engine.submit(chain(4, last=9))
    run.result(10)
    planned = next(event for event in run.events() if isinstance(event, events.Planned))
    assert planned.hits == ["n2"] and planned.work == ["n3"]


def test_declared_inputs_are_set_and_checked(engine):
    made = workflow({"a": ("Constant", {"value": 1})}, {"value": "a.value"}, inputs={"number": {"to": "a.value"}})
    assert result(engine, made, number=5) == {"value": 5}
    with pytest.raises(GraphError, match="Did you mean number"):
        result(engine, made, numbr=5)
    with pytest.raises(GraphError, match=r"a\.value"):
        result(engine, made, number=-5000)


def test_values_are_freed_when_their_last_reader_is_done(engine):
    run = engine.submit(chain(100))
    run.result(10)
    assert run._outputs == {"value": 99}


def test_close_cancels_what_runs(engine):
    run = engine.submit(workflow({"wait": ("Wait", {})}, {"value": "wait.value"}))
    assert Wait.started.wait(10)
    engine.close()
    assert run.status == "cancelled"
