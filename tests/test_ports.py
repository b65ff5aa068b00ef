"""What may feed what."""

from typing import Any, Literal

import pytest

from graphengine import Image, Lazy, Mask
from graphengine.ports import Feed, Port, feed


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (int, int, Feed.PLAIN),
        (int, float, Feed.PLAIN),
        (float, int, None),
        (bool, int, None),
        (str, int, None),
        (Image, Image, Feed.PLAIN),
        (Image, Mask, None),
        (Image, Image | None, Feed.PLAIN),
        (Image | None, Image, Feed.PLAIN),
        (Image, Lazy[Image], Feed.PLAIN),
        (list[Image], Image, Feed.MAP),
        (Image, list[Image], Feed.WRAP),
        (list[Image], list[Image], Feed.PLAIN),
        (list[Image], Any, Feed.PLAIN),
        (Any, Image, Feed.PLAIN),
        (Image, list[Any], Feed.WRAP),
        (str, Literal["a", "b"], Feed.PLAIN),
        (Literal["a", "b"], str, Feed.PLAIN),
        (Image, Image | Mask, Feed.PLAIN),
        (Image | Mask, Image, None),
    ],
)
def test_an_output_feeds_an_input(source, target, expected):
    assert feed(Port.of(source), Port.of(target)) is expected


def test_a_port_is_named_as_people_read_it():
    assert Port.of(list[Image]).label == "list[Image]"
    assert Port.of(Literal["a", "b"]).label == "one of a, b"
    assert Port.of(float | Image).label == "float or Image"
