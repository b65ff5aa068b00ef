"""Plots and numbers: curves from lists of numbers, pictures from curves, sentences from numbers."""

from __future__ import annotations

from typing import Any

from graphengine import Context, Field, Image, Node, Ports
from graphengine.values import Curve


class MakeCurve(Node, category="plot"):
    """A curve from numbers that the graph has computed, in order."""

    name: str = Field("", description="what the legend says")
    x: list[float] = Field(description="places along the horizontal axis")
    y: list[float] = Field(description="as many heights")

    class Outputs(Ports):
        curve: Curve

    def run(self, ctx: Context) -> Outputs:
        if len(self.x) != len(self.y):
            raise ValueError(f"there are {len(self.x)} x and {len(self.y)} y; a curve has as many of each.")
        return self.Outputs(curve=Curve(self.name, tuple(self.x), tuple(self.y)))


class Plot(Node, category="plot"):
    """Curves as a picture."""

    curves: list[Curve]
    title: str = Field("", description="stands above the plot")
    x_label: str = Field("", description="what the horizontal axis shows")
    y_label: str = Field("", description="what the vertical axis shows")
    log_x: bool = Field(False, description="divide the horizontal axis by factors")
    log_y: bool = Field(False, description="divide the vertical axis by factors")
    width: int = Field(640, ge=100, le=4096, description="pixels")
    height: int = Field(400, ge=100, le=4096, description="pixels")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        from graphengine import plot

        if not any(curve.x for curve in self.curves):
            raise ValueError("there is nothing to plot: the curves have no points.")
        axes = plot.Axes(self.title, self.x_label, self.y_label, self.log_x, self.log_y, self.width, self.height)
        return self.Outputs(image=plot.curves(self.curves, axes))


class Format(Node, category="value"):
    """Write values into a text: {0} is the first, {1:.2f} the second with two decimals, {2:.0%} the third in per cent."""

    template: str = Field(description="the text with {0}, {1}, ... in it")
    values: list[Any] = Field(description="numbers and texts, in order")

    class Outputs(Ports):
        text: str

    def run(self, ctx: Context) -> Outputs:
        for value in self.values:
            if not isinstance(value, str | int | float | bool):
                raise ValueError(f"only numbers and texts can be written, not a {type(value).__name__}.")
        if "{" in self.template and any(mark in self.template for mark in (".__", "._", "[")):
            raise ValueError("a template names values by their place only: {0}, {1:.2f}.")
        try:
            return self.Outputs(text=self.template.format(*self.values))
        except (IndexError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"the template cannot be filled in with {len(self.values)} values: {error}.") from None
