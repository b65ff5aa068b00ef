"""Print how near every family comes to diffusers: `python tests/families/table.py [NAME]`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import families
from families.harness import CONTROL, LIMIT, Case, compare


def cases() -> list[Case]:
    """The cases of every module of this folder."""
    found: list[Case] = []
    for module in pkgutil.iter_modules(families.__path__):
        found += getattr(importlib.import_module(f"families.{module.name}"), "CASES", [])
    return found


def main(words: list[str]) -> int:
    print(
        f"{'family':<28}{'latents':>10}{'picture':>10}{'control':>10}   equal below {LIMIT:g}, control above {CONTROL:g}"
    )
    equal = True
    for case in cases():
        if all(word.lower() in case.name.lower() for word in words):
            with tempfile.TemporaryDirectory() as folder:
                found = compare(case, Path(folder))
            print(
                f"{found.name:<28}{found.latents:>10.1e}{found.picture:>10.1e}{found.control:>10.1e}   {'equal' if found.equal else 'DIFFERS'}",
                flush=True,
            )
            equal = equal and found.equal
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
