"""Plots as pictures: curves, and matrices as heat maps.  matplotlib draws them without a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphengine.values import Curve, Image

DOTS_PER_INCH = 100
MARKED = 40
"""Curves of fewer points show each of them."""


@dataclass(frozen=True)
class Axes:
    """What is written at a plot, and how its axes are divided; width and height in pixels."""

    title: str = ""
    x: str = ""
    y: str = ""
    log_x: bool = False
    log_y: bool = False
    width: int = 640
    height: int = 400


def curves(lines: Sequence[Curve], axes: Axes) -> Image:
    """Curves in one plot, `[1, height, width, 3]`.  Values that a logarithmic axis cannot show are left out."""
    figure = _figure(axes)
    plot = figure.add_subplot()
    for line in lines:
        plot.plot(line.x, line.y, label=line.name, marker="o" if len(line.x) < MARKED else None, markersize=4)
    plot.set(title=axes.title, xlabel=axes.x, ylabel=axes.y)
    if axes.log_x:
        plot.set_xscale("log")
    if axes.log_y:
        plot.set_yscale("log")
    plot.grid(alpha=0.3)
    if len(lines) > 1:
        plot.legend()
    return _picture(figure)


def matrix(values: np.ndarray, labels: Sequence[str], axes: Axes) -> Image:
    """A square matrix as a heat map with its numbers, rows and columns labelled alike."""
    figure = _figure(axes)
    plot = figure.add_subplot()
    plot.imshow(values, cmap="viridis")
    plot.set(title=axes.title, xticks=range(len(labels)), yticks=range(len(labels)))
    plot.set_xticklabels(labels, rotation=30, ha="right")
    plot.set_yticklabels(labels)
    middle = (float(values.min()) + float(values.max())) / 2
    for row, numbers in enumerate(values):
        for column, value in enumerate(numbers):
            ink = "black" if value > middle else "white"
            plot.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    return _picture(figure)


def _figure(axes: Axes) -> Any:
    from matplotlib.figure import Figure

    return Figure((axes.width / DOTS_PER_INCH, axes.height / DOTS_PER_INCH), DOTS_PER_INCH, layout="constrained")


def _picture(figure: Any) -> Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image(np.asarray(canvas.buffer_rgba())[None, ..., :3].astype(np.float32) / 255)
