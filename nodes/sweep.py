"""Comparisons: one workflow run for every pair of two lists of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import Context, Field, Link, Node, Ports, Settings, Workflow
from graphengine.subgraph import inline
from graphengine.values import Curve
from graphengine.workflow import NodeSpec

from .control import body_of, named


class Sweep(Node, category="control"):
    """Run a workflow for every pair of a row and a column, and collect what comes out, row by row.

    Every cell is a part of the graph with its own place in the cache: one more row computes that row.
    """

    rows: list[Any] = Field(description="values of the first input: numbers, texts or truths")
    columns: list[Any] = Field(description="values of the second input")
    workflow: str | dict[str, Any] = Field(description="a workflow's name, or the workflow itself")
    row_input: str = Field(description="the declared input that takes the row's value")
    column_input: str = Field(description="the declared input that takes the column's value")
    output: str = Field(description="the declared output that is collected")

    class Outputs(Ports):
        results: list[Any]

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return named(inputs, settings)

    def run(self, ctx: Context) -> Outputs | Workflow:
        if not (self.rows and self.columns):
            return self.Outputs(results=[])
        body = body_of(self.workflow, (self.row_input, self.column_input), self.output, ctx)
        end = body.outputs[self.output]
        nodes: dict[str, NodeSpec] = {}
        links = []
        for row, value in enumerate(self.rows, 1):
            for column, other in enumerate(self.columns, 1):
                for item in (value, other):
                    if not isinstance(item, int | float | str | bool):
                        raise ValueError(f"a sweep goes over numbers, texts and truths, not a {type(item).__name__}.")
                name = f"row{row}column{column}"
                nodes |= inline(name, body, {self.row_input: value, self.column_input: other})
                links.append(Link(f"{name}/{end.node}", end.port))
        nodes["collect"] = NodeSpec("Collect", {"items": links})
        return Workflow(nodes, "sweep", outputs={"results": Link("collect", "items")})


class SweepTable(Node, category="plot"):
    """What a sweep has found, as a table in Markdown: a line for each row, a column for each column."""

    rows: list[str | int | float] = Field(description="as given to the sweep")
    columns: list[str | int | float] = Field(description="as given to the sweep")
    results: list[str | int | float] = Field(description="what the sweep has collected, row by row")
    corner: str = Field("", description="what stands above the rows")

    class Outputs(Ports):
        table: str

    def run(self, ctx: Context) -> Outputs:
        _check(self.rows, self.columns, self.results)
        wide = len(self.columns)
        lines = ["| " + " | ".join([self.corner, *map(_shown, self.columns)]) + " |", "|---" * (wide + 1) + "|"]
        for number, row in enumerate(self.rows):
            cells = map(_shown, self.results[number * wide : (number + 1) * wide])
            lines.append("| " + " | ".join([_shown(row), *cells]) + " |")
        return self.Outputs(table="\n".join(lines))


class SweepCurves(Node, category="plot"):
    """What a sweep has found, as a curve for each row over the columns' numbers."""

    rows: list[str | int | float] = Field(description="as given to the sweep; the curves' names")
    columns: list[float] = Field(description="as given to the sweep; the places along the axis")
    results: list[float] = Field(description="what the sweep has collected, row by row")

    class Outputs(Ports):
        curves: list[Curve]

    def run(self, ctx: Context) -> Outputs:
        _check(self.rows, self.columns, self.results)
        wide, places = len(self.columns), tuple(self.columns)
        parts = [tuple(self.results[start : start + wide]) for start in range(0, len(self.results), wide)]
        return self.Outputs(
            curves=[Curve(_shown(row), places, part) for row, part in zip(self.rows, parts, strict=True)]
        )


def _check(rows: list[Any], columns: list[Any], results: list[Any]) -> None:
    if not rows or not columns or len(rows) * len(columns) != len(results):
        raise ValueError(f"{len(rows)} rows and {len(columns)} columns do not give {len(results)} results.")


def _shown(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
