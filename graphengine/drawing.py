"""A workflow's graph as a drawing: Mermaid text, SVG, or PNG.  Nodes stand in columns by their distance from the sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from graphengine.workflow import Link, Workflow

BOX, ROW, COLUMN, HEAD, EDGE = 190, 17, 260, 24, 24
INK, PAPER, FRAME, ACCENT, LINE = "#1f2430", "#ffffff", "#c6cbd8", "#3457d5", "#7a86a8"


@dataclass(frozen=True)
class Box:
    """One node on the drawing: its place, its title, and its rows of inputs."""

    id: str
    title: str
    rows: tuple[str, ...]
    x: int
    y: int

    @property
    def height(self) -> int:
        return HEAD + ROW * len(self.rows) + 8


def links(workflow: Workflow) -> list[tuple[Link, str, str]]:
    """Every link as (source, node, input)."""
    found = []
    for name, spec in workflow.nodes.items():
        for key, value in spec.inputs.items():
            items = value if isinstance(value, list) else [value]
            found += [(item, name, key) for item in items if isinstance(item, Link)]
    return found


def layout(workflow: Workflow) -> dict[str, Box]:
    """Boxes in columns: a node stands right of everything that it reads.  Cycles are cut, not followed."""
    column = dict.fromkeys(workflow.nodes, 0)
    edges = [(link.node, node) for link, node, _ in links(workflow) if link.node in column]
    for _ in range(len(column)):
        moved = False
        for source, target in edges:
            if column[target] <= column[source] < len(column):
                column[target] = column[source] + 1
                moved = True
        if not moved:
            break
    bottoms: dict[int, int] = {}
    boxes = {}
    for name, spec in workflow.nodes.items():
        rows = tuple(_row(key, value) for key, value in spec.inputs.items())
        place = column[name]
        box = Box(name, f"{name} · {spec.type}", rows, EDGE + place * COLUMN, bottoms.get(place, EDGE))
        bottoms[place] = box.y + box.height + EDGE
        boxes[name] = box
    return boxes


def _row(key: str, value: Any) -> str:
    if isinstance(value, Link):
        return f"{key} ← {value}"
    text = f"{key} = {value}"
    return text if len(text) <= 28 else text[:27] + "…"


def mermaid(workflow: Workflow) -> str:
    """The graph as a Mermaid flow chart."""
    numbers = {name: f"n{index}" for index, name in enumerate(workflow.nodes)}
    lines = ["flowchart LR"]
    for name, spec in workflow.nodes.items():
        lines.append(f'    {numbers[name]}["{_plain(name)}<br/><i>{_plain(spec.type)}</i>"]')
    for link, node, key in links(workflow):
        if link.node in numbers:
            lines.append(f"    {numbers[link.node]} -->|{_plain(key)}| {numbers[node]}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in " _-./" else f"#{ord(letter)};" for letter in text)


def write_mermaid(workflow: Workflow, path: Path) -> None:
    path.write_text(mermaid(workflow) + "\n", encoding="utf-8")


def _size(boxes: dict[str, Box]) -> tuple[int, int]:
    width = max((box.x + BOX for box in boxes.values()), default=0) + EDGE
    return width, max((box.y + box.height for box in boxes.values()), default=0) + EDGE


def _curves(workflow: Workflow, boxes: dict[str, Box]) -> list[list[tuple[float, float]]]:
    """Control points of the cubic curve of each link."""
    made = []
    for link, node, key in links(workflow):
        if link.node in boxes:
            source, target = boxes[link.node], boxes[node]
            row = list(workflow.nodes[node].inputs).index(key)
            x0, y0 = source.x + BOX, source.y + HEAD / 2
            x1, y1 = target.x, target.y + HEAD + ROW * (row + 0.5)
            bend = max(30.0, (x1 - x0) / 2)
            made.append([(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)])
    return made


def svg(workflow: Workflow) -> str:
    """The graph as SVG; it holds text and shapes only."""
    boxes = layout(workflow)
    width, height = _size(boxes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="ui-sans-serif, system-ui, sans-serif" font-size="11">',
        f'<title>{escape(workflow.name)}</title><rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    for a, b, c, d in _curves(workflow, boxes):
        curve = f"M{a[0]:.0f},{a[1]:.0f} C{b[0]:.0f},{b[1]:.0f} {c[0]:.0f},{c[1]:.0f} {d[0]:.0f},{d[1]:.0f}"
        parts.append(f'<path d="{curve}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
    for box in boxes.values():
        parts.append(
            f'<rect x="{box.x}" y="{box.y}" width="{BOX}" height="{box.height}" rx="6" fill="{PAPER}" stroke="{FRAME}"/>'
        )
        parts.append(
            f'<text x="{box.x + 10}" y="{box.y + 17}" font-weight="600" fill="{ACCENT}">{escape(box.title)}</text>'
        )
        for index, row in enumerate(box.rows):
            y = box.y + HEAD + ROW * index + 13
            parts.append(f'<text x="{box.x + 10}" y="{y}" fill="{INK}">{escape(row)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def write_svg(workflow: Workflow, path: Path) -> None:
    path.write_text(svg(workflow), encoding="utf-8")


def write_png(workflow: Workflow, path: Path, scale: int = 2) -> None:
    """Write the graph as PNG, at `scale` pixels a unit."""
    from PIL import Image, ImageDraw, ImageFont

    boxes = layout(workflow)
    width, height = _size(boxes)
    canvas = Image.new("RGB", (width * scale, height * scale), PAPER)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(11 * scale)
    for points in _curves(workflow, boxes):
        pen.line([(x * scale, y * scale) for x, y in _flattened(points)], fill=LINE, width=scale + 1)
    for box in boxes.values():
        frame = [v * scale for v in (box.x, box.y, box.x + BOX, box.y + box.height)]
        pen.rounded_rectangle(frame, 6 * scale, fill=PAPER, outline=FRAME, width=scale)
        for index, row in enumerate((box.title, *box.rows)):
            top = box.y + 5 if index == 0 else box.y + HEAD + ROW * (index - 1) + 2
            text = row.replace("←", "<-").replace("·", ":").replace("…", "...")
            pen.text(((box.x + 10) * scale, top * scale), text, fill=INK if index else ACCENT, font=font)
    canvas.save(path)


def _flattened(points: list[tuple[float, float]], count: int = 24) -> list[tuple[float, float]]:
    """Points along a cubic Bezier curve."""
    made = []
    for index in range(count + 1):
        t = index / count
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        made.append(
            (
                sum(w * p[0] for w, p in zip(weights, points, strict=True)),
                sum(w * p[1] for w, p in zip(weights, points, strict=True)),
            )
        )
    return made
