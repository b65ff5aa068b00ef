"""Imports that wait until somebody needs them.

transformers and diffusers import scipy's optimisers and distributions as soon as a network is: for losses of object
detectors and for a noise schedule of theirs, neither of which is used here.  That is a tenth of the CPU time and of the
memory of a process that draws one picture.  So a stand-in answers for these modules while networks are imported.  What
it gave away loads the real module when it is called; after that, and for everybody else, an import is an import.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

SELDOM_USED = ("scipy.integrate", "scipy.optimize", "scipy.stats")


class _StandIn(ModuleType):
    """Answers for a module: with functions that load it when they are called, and, once it is gone, with its own."""

    def __init__(self, name: str):
        super().__init__(name)
        spec = find_spec(name)
        self.__path__: Any = spec.submodule_search_locations if spec else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys._getframe(1).f_globals.get("__name__", "").startswith("scipy"):  # they derive classes from one another's
            _remove_stand_ins()
        if sys.modules.get(self.__name__) is not self:
            return getattr(import_module(self.__name__), name)

        def call(*arguments: Any, **named: Any) -> Any:
            _remove_stand_ins()  # the real ones import one another
            return getattr(import_module(self.__name__), name)(*arguments, **named)

        return call


@contextmanager
def imported_later() -> Iterator[None]:
    """While this lasts, `SELDOM_USED` are only imported in name, unless they are already there."""
    sys.modules.update({name: _StandIn(name) for name in SELDOM_USED if name not in sys.modules})
    try:
        yield
    finally:
        _remove_stand_ins()


def _remove_stand_ins() -> None:
    for name in SELDOM_USED:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
