"""Chat templates of tokenizers, rendered in a process of their own.

A template is a program in Jinja's language.  The sandbox keeps it from the engine's objects, but not from loops without
an end or texts without one; a process with little memory and little time does.  This file is that process's program, and
imports nothing of the engine's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import Any

SECONDS, MEMORY, LONGEST = 10, 2**30, 2**20


def render(template: str, values: dict[str, Any]) -> str:
    """A template's text.  Raises ValueError with what went wrong."""
    asked = json.dumps({"template": template, "values": values})
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__], input=asked.encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError("it does not come to an end") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise ValueError(told[:200] or "it takes too much memory or time")
    return json.loads(done.stdout)


def main() -> None:
    """Read a template and values from standard input, and write the text to standard output."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    asked = json.load(sys.stdin)
    _limit()

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def as_json(value: Any, **options: Any) -> str:
        known: dict[str, Any] = {"ensure_ascii": False} | options
        return json.dumps(value, **known)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    written = environment.from_string(asked["template"]).render(**asked["values"])
    if len(written) > LONGEST:
        raise ValueError("its text is too long")
    json.dump(written, sys.stdout)


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the time alone is limited
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS // 2, SECONDS // 2))


if __name__ == "__main__":
    main()
