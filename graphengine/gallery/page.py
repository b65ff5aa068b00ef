"""The gallery's page: `README.md` beside the workflows, with a section and a picture for each exhibit, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from graphengine.gallery.exhibits import EXHIBITS, Exhibit
from graphengine.gallery.figures import Figure

HEAD = """# The gallery

Every system of an introduction to diffusion models, as a graph that runs on the embedded models on a CPU. The pictures and the
figures below are made by `graphengine gallery`; each section says how to make its own, and `--cases` over how many cases. The same
workflows run on any checkpoint of the same kind: give `--checkpoint`.
"""


def write(folder: Path, exhibits: Sequence[Exhibit], figures: Mapping[str, Sequence[Figure]]) -> Path:
    """Write the page; exhibits whose picture is not there are left out.  Returns its path."""
    shown = [
        exhibit for exhibit in exhibits if any(picture(folder, exhibit, name).is_file() for name in exhibit.outputs)
    ]
    parts = [
        HEAD,
        table(shown, figures),
        *(_section(folder, exhibit, figures.get(exhibit.workflow, ())) for exhibit in shown),
    ]
    path = folder / "README.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def picture(folder: Path, exhibit: Exhibit, output: str) -> Path:
    """Where the picture of an output is kept."""
    name = exhibit.workflow if output == exhibit.outputs[0] else f"{exhibit.workflow}_{output}"
    return folder / "pictures" / f"{name}.png"


def table(exhibits: Sequence[Exhibit], figures: Mapping[str, Sequence[Figure]]) -> str:
    """What was measured, in Markdown."""
    lines = ["| workflow | what is measured | figure | cases |", "|---|---|---|---:|"]
    for exhibit in exhibits:
        for figure in figures.get(exhibit.workflow, ()):
            lines.append(f"| `{exhibit.workflow}` | {figure.claim} | {figure.value} | {figure.cases} |")
    return "\n".join(lines) + "\n"


def _section(folder: Path, exhibit: Exhibit, figures: Sequence[Figure]) -> str:
    lines = [f"## {exhibit.section}", "", exhibit.says, "", f"    {exhibit.command}", ""]
    for name in exhibit.outputs:
        place = picture(folder, exhibit, name)
        if place.is_file():
            lines.append(f"![{exhibit.section}]({place.relative_to(folder).as_posix()})")
    if figures:
        lines += ["", f"`graphengine gallery {exhibit.workflow}` measures it."]
    return "\n".join(lines) + "\n"


def known(names: Sequence[str]) -> list[Exhibit]:
    """The exhibits of these names, or all.  Raises ValueError for a name that there is not."""
    by_name = {exhibit.workflow: exhibit for exhibit in EXHIBITS}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"the gallery has no {unknown[0]!r}; it has {', '.join(by_name)}.")
    return [by_name[name] for name in names] if names else list(EXHIBITS)
