"""What a port is, and what may feed what.

A port's type is an ordinary annotation: `Image`, `float`, `Literal["a", "b"]`, `list[Image]`, `Lazy[Image]`,
`Image | None`.  `Port.of` reads it once; `feed` decides how an output reaches an input:

    PLAIN    the value goes over as it is (a subclass, an int into a float, anything into Any)
    MAP      a list of T into T: the node runs once per item, in order
    WRAP     T into a list of T: it arrives as a list of one
    None     it may not
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

T = TypeVar("T")


class Pending(BaseException):
    """Raised by `Lazy.get` when the value is not there yet; the executor computes it and runs the node again."""

    def __init__(self, name: str):
        self.name = name


class Lazy(Generic[T]):
    """An input that is computed only when the node asks for it with `get()`.

    A node that asks for a value which is not there yet is stopped and run again from its beginning once it
    is, so ask first and work afterwards.
    """

    __slots__ = ("_name", "_ready", "_value")

    def __init__(self, name: str, value: Any = None, ready: bool = False):
        self._name, self._value, self._ready = name, value, ready

    def get(self) -> T:
        """The value; computes whatever it depends on, if nothing has yet."""
        if not self._ready:
            raise Pending(self._name)
        return self._value

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.is_instance_schema(cls)


class Feed(enum.Enum):
    """How an output reaches an input."""

    PLAIN = "plain"
    MAP = "map"
    WRAP = "wrap"


@dataclass(frozen=True)
class Port:
    """A port's type, read: the item type, whether it is a list, lazy, or may be left empty."""

    type: Any
    many: bool = False
    lazy: bool = False
    optional: bool = False

    @classmethod
    def of(cls, annotation: Any) -> Port:
        """Read an annotation.  `Annotated` metadata is left to pydantic."""
        many = lazy = optional = False
        while True:
            origin, arguments = get_origin(annotation), get_args(annotation)
            if origin is Annotated:
                annotation = arguments[0]
            elif origin in (Union, types.UnionType) and type(None) in arguments:
                optional = True
                annotation = _union(a for a in arguments if a is not type(None))
            elif origin in (Union, types.UnionType) and any(get_origin(a) is Annotated for a in arguments):
                annotation = _union(arguments)
            elif origin is Lazy:
                lazy, annotation = True, arguments[0]
            elif origin is list and not many:
                many, annotation = True, arguments[0]
            elif annotation is list:
                many, annotation = True, Any
            else:
                return cls(annotation, many, lazy, optional)

    @property
    def label(self) -> str:
        """The type as people read it: `Image`, `list[Image]`, `one of a, b`."""
        name = _label(self.type)
        return f"list[{name}]" if self.many else name

    def listed(self) -> Port:
        """The same port of a node that runs once per item: its outputs come as lists."""
        return self if self.many else Port(self.type, many=True)


def _union(options: Iterable[Any]) -> Any:
    """The union of some types, their metadata left out."""
    bare = tuple(get_args(o)[0] if get_origin(o) is Annotated else o for o in options)
    return bare[0] if len(bare) == 1 else Union[bare]  # noqa: UP007 - built at run time


def _label(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_label(option) for option in get_args(kind))
    if kind is Any:
        return "anything"
    return {"int": "int", "str": "text"}.get(getattr(kind, "__name__", ""), getattr(kind, "__name__", str(kind)))


@lru_cache(maxsize=4096)
def feed(source: Port, target: Port) -> Feed | None:
    """How values of `source` reach `target`; None when they may not."""
    if not _fits(source.type, target.type):
        return None
    anything = Any in (source.type if not source.many else None, target.type if not target.many else None)
    if source.many == target.many or anything:  # a lone Any may hold a list already
        return Feed.PLAIN
    return Feed.MAP if source.many else Feed.WRAP


def _fits(source: Any, target: Any) -> bool:
    if target is Any or source is Any or source == target:
        return True
    if get_origin(target) in (Union, types.UnionType):
        return any(_fits(source, option) for option in get_args(target))
    if get_origin(source) in (Union, types.UnionType):
        return all(_fits(option, target) for option in get_args(source))
    if get_origin(target) is Literal:
        return _literal_base(target) is source
    if get_origin(source) is Literal:
        return _fits(_literal_base(source), target)
    if isinstance(source, type) and isinstance(target, type):
        if target is float and source is int:
            return True
        if source is bool and target is int:
            return False
        return issubclass(source, target)
    return False


def _literal_base(literal: Any) -> type:
    return type(get_args(literal)[0])


def takes_literal(port: Port) -> bool:
    """Whether an unlinked value can be written for this port: numbers, text, truths, choices and lists of them."""
    options = get_args(port.type) if get_origin(port.type) in (Union, types.UnionType) else (port.type,)
    return any(
        option in (int, float, str, bool, dict, Any) or get_origin(option) in (Literal, dict) for option in options
    )
