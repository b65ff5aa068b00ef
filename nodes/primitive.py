"""Plain values, so that several nodes can share one, and small work on text."""

from __future__ import annotations

import re

from graphengine import Context, Field, Node, Ports


class Integer(Node, category="value"):
    """A whole number."""

    value: int = Field(0, ge=-(2**63), lt=2**63, description="the number")

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(value=self.value)


class Number(Node, category="value"):
    """A number."""

    value: float = Field(0.0, description="the number")

    class Outputs(Ports):
        value: float

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(value=self.value)


class Text(Node, category="value"):
    """A text; with `values`, its {name} places are filled in."""

    text: str = Field("", description="the text, or a template with {name} in it")
    values: dict[str, str] = Field({}, description="what to put in place of {name}")

    class Outputs(Ports):
        text: str

    def run(self, ctx: Context) -> Outputs:
        places = "|".join(re.escape("{" + name + "}") for name in self.values)
        text = re.sub(places, lambda found: self.values[found[0][1:-1]], self.text) if places else self.text
        return self.Outputs(text=text)


class JoinText(Node, category="value"):
    """Several texts as one."""

    texts: list[str] = Field(description="the parts, in order")
    separator: str = Field(", ", description="what stands between them")

    class Outputs(Ports):
        text: str

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(text=self.separator.join(part for part in self.texts if part))


class Seed(Node, category="value"):
    """One seed, or a row of them: a node that is fed with `seeds` runs once for each."""

    seed: int = Field(0, ge=0, lt=2**64, description="the first seed")
    count: int = Field(1, ge=1, le=10_000, description="how many, counting up")

    class Outputs(Ports):
        seed: int
        seeds: list[int]

    def run(self, ctx: Context) -> Outputs:
        seeds = [(self.seed + index) % 2**64 for index in range(self.count)]
        return self.Outputs(seed=self.seed, seeds=seeds)
