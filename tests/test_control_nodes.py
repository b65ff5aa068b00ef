"""Choosing, repeating, collecting and mapping: what is computed, how often, and in which order."""

import json
import time
from typing import Any

import pytest
from nodes_for_tests import NODES, calls, workflow

from graphengine import Context, Engine, GraphError, Image, Node, NodeError, Ports, Settings
from graphengine.testing import picture


class Parity(Node):
    """Which of the numbers are odd."""

    numbers: list[int]

    class Outputs(Ports):
        odd: list[bool]

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(odd=[number % 2 == 1 for number in self.numbers])


class Slow(Node):
    """Adds one, slowly enough to be kept on disk."""

    a: int

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        time.sleep(0.01)
        return self.Outputs(value=self.a + 1)


class Negative(Node):
    """A picture inside out."""

    image: Image

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        return self.Outputs(image=Image(1 - self.image.pixels))


class Noise(Node):
    """A picture."""

    seed: int

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        return self.Outputs(image=picture(4, 4, seed=self.seed))


def make_engine(folder) -> Engine:
    (folder / "in").mkdir(exist_ok=True)
    place = Settings.load(
        cache_folder=folder / "cache",
        output_folder=folder / "out",
        input_folder=folder / "in",
        plugin_folders=(),
        device="cpu",
    )
    return Engine(nodes=[*NODES, Parity, Slow, Noise, Negative], settings=place)


@pytest.fixture
def engine(tmp_path):
    calls.clear()
    with make_engine(tmp_path) as made:
        yield made


def result(engine: Engine, nodes: dict[str, Any], output: str) -> Any:
    return engine.submit(workflow(nodes, {"it": output})).result(30)["it"]


def adding(number: int, kind: str = "Add") -> dict[str, Any]:
    """A workflow that adds a number to its input `n`, as a document."""
    inputs = {"a": 0, "b": number} if kind == "Add" else {"a": 0}
    return workflow({"add": (kind, inputs)}, {"sum": "add.value"}, inputs={"n": {"to": "add.a"}}).document()


def repeat(value: Any, times: Any, body: Any) -> tuple[str, dict[str, Any]]:
    return "Repeat", {"value": value, "times": times, "workflow": body, "input": "n", "output": "sum"}


def each(items: Any, body: Any) -> tuple[str, dict[str, Any]]:
    return "ForEach", {"items": items, "workflow": body, "input": "n", "output": "sum"}


def switch(condition: Any) -> dict[str, Any]:
    return {
        "yes": ("Constant", {"value": 1}),
        "no": ("Constant", {"value": 2}),
        "pick": ("Switch", {"condition": condition, "on_true": "@yes.value", "on_false": "@no.value"}),
    }


# Switch


@pytest.mark.parametrize(("condition", "expected", "ran"), [(True, 1, "yes"), (False, 2, "no")])
def test_a_switch_computes_only_the_chosen_branch(engine, condition, expected, ran):
    assert result(engine, switch(condition), "pick.value") == expected
    assert calls == [ran]


def test_a_failure_in_the_branch_that_is_not_chosen_does_not_matter(engine):
    nodes = switch(True) | {"no": ("Fail", {})}
    assert result(engine, nodes, "pick.value") == 1


def test_a_switch_that_is_turned_back_computes_nothing(engine):
    for condition in (True, False):
        result(engine, switch(condition), "pick.value")
    calls.clear()
    assert result(engine, switch(True), "pick.value") == 1
    assert calls == []


def test_what_comes_out_of_a_switch_feeds_any_node(engine):
    nodes = switch(False) | {"add": ("Add", {"a": "@pick.value", "b": 10})}
    assert result(engine, nodes, "add.value") == 12


def test_a_switch_that_is_fed_a_list_of_conditions_chooses_for_each(engine):
    nodes = switch("@parity.odd") | {"parity": ("Parity", {"numbers": [1, 2, 3]})}
    assert result(engine, nodes, "pick.value") == [1, 2, 1]
    assert sorted(calls) == ["no", "yes"]


# Repeat


@pytest.mark.parametrize(("times", "expected"), [(0, 5), (1, 7), (3, 11)])
def test_repeat_sends_a_value_through_a_workflow_as_often_as_it_is_told(engine, times, expected):
    assert result(engine, {"again": repeat(5, times, adding(2))}, "again.value") == expected
    assert len(calls) == times


def test_repeat_takes_a_linked_value_and_its_result_goes_on(engine):
    nodes = {
        "start": ("Constant", {"value": 5}),
        "again": repeat("@start.value", 3, adding(2)),
        "end": ("Add", {"a": "@again.value"}),
    }
    assert result(engine, nodes, "end.value") == 12


def test_one_turn_more_computes_one_turn(engine):
    result(engine, {"again": repeat(5, 3, adding(2))}, "again.value")
    calls.clear()
    assert result(engine, {"again": repeat(5, 4, adding(2))}, "again.value") == 13
    assert len(calls) == 1


def test_repeat_carries_pictures(engine):
    body = workflow({"turn": ("Invert", {})}, {"sum": "turn.image"}, inputs={"n": {"to": "turn.image"}}).document()
    nodes = {"make": ("Noise", {"seed": 1}), "again": repeat("@make.image", 3, body)}
    pixels = result(engine, nodes, "again.value").pixels
    assert abs(pixels - (1 - picture(4, 4, seed=1).pixels)).max() < 1e-6


def test_a_repeat_inside_a_for_each_is_a_nested_workflow(engine):
    body = workflow({"again": repeat(0, 2, adding(10))}, {"sum": "again.value"}, inputs={"n": {"to": "again.value"}})
    assert result(engine, {"all": each([1, 2], body.document())}, "all.results") == [21, 22]


@pytest.mark.parametrize(("key", "wrong"), [("input", "m"), ("output", "total")])
def test_a_wrong_input_or_output_of_the_repeated_workflow_is_told_with_what_there_is(engine, key, wrong):
    kind, inputs = repeat(5, 1, adding(2))
    with pytest.raises(NodeError, match=f"again: .*declares no {key} '{wrong}'; it has"):
        result(engine, {"again": (kind, inputs | {key: wrong})}, "again.value")


def test_a_repeated_workflow_that_is_found_by_name_runs(engine, tmp_path):
    (tmp_path / "in" / "plus.json").write_text(json.dumps(adding(2)))
    assert result(engine, {"again": repeat(5, 2, "plus")}, "again.value") == 9
    with pytest.raises(NodeError, match="there is no workflow 'minus'"):
        result(engine, {"again": repeat(5, 2, "minus")}, "again.value")


def test_a_repeated_workflow_whose_file_changed_is_not_served_from_the_cache(tmp_path):
    for kind, expected in (("Slow", 6), ("Add", 105)):
        with make_engine(tmp_path) as engine:
            (tmp_path / "in" / "plus.json").write_text(json.dumps(adding(100, kind)))
            assert result(engine, {"again": repeat(5, 1, "plus")}, "again.value") == expected


# ForEach and Collect


def test_for_each_collects_in_the_order_of_the_items(engine):
    assert result(engine, {"all": each([3, 1, 2, 1], adding(10))}, "all.results") == [13, 11, 12, 11]


def test_for_each_of_nothing_is_nothing(engine):
    assert result(engine, {"all": each([], adding(10))}, "all.results") == []


def test_for_each_takes_a_linked_list(engine):
    nodes = {"count": ("Count", {"n": 3}), "all": each("@count.numbers", adding(10))}
    assert result(engine, nodes, "all.results") == [10, 11, 12]


def test_one_item_more_in_a_for_each_computes_only_that_item(engine):
    result(engine, {"all": each([3, 1], adding(10))}, "all.results")
    calls.clear()
    assert result(engine, {"all": each([3, 1, 2], adding(10))}, "all.results") == [13, 11, 12]
    assert calls == ["all/item3/add"]


def test_for_each_tells_that_pictures_map_by_themselves(engine):
    nodes = {"make": ("Noise", {"seed": 1}), "all": each(["@make.image"], adding(10))}
    with pytest.raises(NodeError, match=r"all: .*item 1 is a Image; a node that takes one item maps"):
        result(engine, nodes, "all.results")


def test_collect_keeps_the_order_in_which_it_is_linked(engine):
    nodes: dict[str, Any] = {f"c{n}": ("Constant", {"value": n}) for n in range(3)}
    nodes["all"] = ("Collect", {"items": ["@c2.value", "between", "@c0.value", "@c1.value"]})
    assert result(engine, nodes, "all.items") == [2, "between", 0, 1]


# Lists: mapping, collecting, links in lists


def sweep(count: int, b: int = 10) -> dict[str, Any]:
    return {
        "seeds": ("Seed", {"seed": 5, "count": count}),
        "add": ("Add", {"a": "@seeds.seeds", "b": b}),
        "more": ("Add", {"a": "@add.value"}),
        "total": ("Total", {"numbers": "@more.value"}),
    }


def test_a_list_runs_a_node_once_per_item_and_keeps_the_order(engine):
    assert result(engine, sweep(4), "more.value") == [16, 17, 18, 19]
    assert calls == ["add"] * 4 + ["more"] * 4


def test_an_input_that_takes_a_list_collects_what_a_mapped_node_gave(engine):
    assert result(engine, sweep(4), "total.value") == 16 + 17 + 18 + 19
    assert calls.count("total") == 1


def test_a_single_value_reaches_a_list_input_as_a_list_of_one(engine):
    nodes = {"one": ("Constant", {"value": 7}), "total": ("Total", {"numbers": "@one.value"})}
    assert result(engine, nodes, "total.value") == 7


def test_links_and_literals_stand_together_in_a_list(engine):
    nodes = {
        "a": ("Constant", {"value": 1}),
        "b": ("Constant", {"value": 2}),
        "join": ("Collect", {"items": ["@b.value", 40, "@a.value", "@b.value"]}),
        "total": ("Total", {"numbers": ["@b.value", 40, "@a.value", "@b.value"]}),
    }
    assert result(engine, nodes, "join.items") == [2, 40, 1, 2]
    assert result(engine, nodes, "total.value") == 45


def test_a_wrong_literal_between_links_is_told_before_anything_runs(engine):
    nodes = {"a": ("Constant", {"value": 1}), "total": ("Total", {"numbers": ["@a.value", "forty"]})}
    with pytest.raises((GraphError, NodeError), match=r"total\.numbers"):
        result(engine, nodes, "total.value")
    assert calls == []


def test_two_lists_of_one_length_run_side_by_side(engine):
    nodes = {
        "low": ("Seed", {"count": 3}),
        "high": ("Seed", {"seed": 100, "count": 3}),
        "add": ("Add", {"a": "@low.seeds", "b": "@high.seeds"}),
    }
    assert result(engine, nodes, "add.value") == [100, 102, 104]


def test_lists_of_different_length_are_told_with_both_lengths(engine):
    nodes = {
        "low": ("Seed", {"count": 3}),
        "high": ("Seed", {"count": 2}),
        "add": ("Add", {"a": "@low.seeds", "b": "@high.seeds"}),
    }
    with pytest.raises(NodeError, match="add: the lists that it runs over differ in length: a has 3, b has 2"):
        result(engine, nodes, "add.value")


def test_an_empty_list_maps_to_an_empty_list(engine):
    nodes = {"count": ("Count", {"n": 0}), "add": ("Add", {"a": "@count.numbers"})}
    assert result(engine, nodes, "add.value") == []


def test_a_longer_sweep_computes_only_the_new_item_in_every_node(engine):
    result(engine, sweep(3), "total.value")
    calls.clear()
    assert result(engine, sweep(4), "total.value") == 16 + 17 + 18 + 19
    assert calls == ["add", "more", "total"]


def test_a_longer_sweep_of_pictures_computes_only_the_new_one_also_when_its_beginning_came_from_the_cache(engine):
    def pictures(count):
        return {
            "seeds": ("Seed", {"count": count}),
            "noise": ("Noise", {"seed": "@seeds.seeds"}),
            "negative": ("Negative", {"image": "@noise.image"}),
        }

    result(engine, pictures(3), "noise.image")
    result(engine, pictures(3), "negative.image")  # "noise" is a hit here
    calls.clear()
    assert len(result(engine, pictures(4), "negative.image")) == 4
    assert calls == ["noise", "negative"]


def test_a_single_value_and_a_list_that_holds_it_are_not_mistaken_for_each_other(engine):
    nodes: dict[str, Any] = {"seeds": ("Seed", {"seed": 5, "count": 1}), "add": ("Add", {"a": "@seeds.seeds"})}
    assert result(engine, nodes, "add.value") == [6]
    nodes["add"] = ("Add", {"a": "@seeds.seed"})
    assert result(engine, nodes, "add.value") == 6


# Seed, Text, JoinText


def test_seeds_count_up_and_begin_again_after_the_last(engine):
    assert result(engine, {"seed": ("Seed", {"seed": 7, "count": 3})}, "seed.seeds") == [7, 8, 9]
    assert result(engine, {"seed": ("Seed", {"seed": 2**64 - 1, "count": 2})}, "seed.seeds") == [2**64 - 1, 0]


def test_a_text_has_its_places_filled_in_and_leaves_the_others(engine):
    inputs = {"text": "a {colour} {shape}, {colour}", "values": {"colour": "red"}}
    assert result(engine, {"text": ("Text", inputs)}, "text.text") == "a red {shape}, red"


def test_what_is_filled_into_a_text_is_not_filled_in_again(engine):
    inputs = {"text": "{a} {b}", "values": {"a": "{b}", "b": "x"}}
    assert result(engine, {"text": ("Text", inputs)}, "text.text") == "{b} x"


def test_texts_are_joined_in_order_and_empty_ones_are_left_out(engine):
    nodes = {
        "a": ("Text", {"text": "a red circle"}),
        "none": ("Text", {}),
        "join": ("JoinText", {"texts": ["@a.text", "@none.text", "above", "@a.text"], "separator": " "}),
    }
    assert result(engine, nodes, "join.text") == "a red circle above a red circle"


def test_a_seed_beyond_64_bits_is_told(engine):
    with pytest.raises(GraphError, match=r"seed\.seed: .*less than"):
        result(engine, {"seed": ("Seed", {"seed": 2**64})}, "seed.seed")
