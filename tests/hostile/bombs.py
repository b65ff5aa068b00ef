"""Tokenizers that were made to take time or memory without end."""

from typing import Any

WORDS = {"[U]": 0, "a": 1, "red": 2, "star": 3}


def rules(**changes: Any) -> dict[str, Any]:
    """A small tokenizer.json."""
    values: dict[str, Any] = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    values |= {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    values["model"] = {"type": "WordLevel", "vocab": WORDS, "unk_token": "[U]"}
    return values | changes


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def replace(old: Any, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": old, "content": new}


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        made = sequence(made)
    return made


def twice() -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    }


def slow(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def padding(**changes: Any) -> dict[str, Any]:
    values = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    return values | {"pad_type_id": 0, "pad_token": "[U]"} | changes


def token(number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 4 + number, "content": f"<{number}>"} | flags


BOMBS: dict[str, Any] = {
    "a text that doubles 40 times": rules(normalizer=sequence(*[replace({"String": "a"}, "aa")] * 40)),
    "one letter to a million": rules(normalizer=replace({"String": "a"}, "a" * 1_000_000)),
    "a beginning of a million": rules(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}),
    "two tables": rules(normalizer=sequence(*[{"type": "Precompiled", "precompiled_charsmap": "AAAA"}] * 2)),
    "a damaged table": rules(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "tokens that double 40 times": rules(post_processor={"type": "Sequence", "processors": [twice()] * 40}),
    "padding to 10^10": rules(padding=padding(strategy={"Fixed": 10**10})),
    "padding to a multiple": rules(padding=padding(pad_to_multiple_of=10**10)),
    "a regex that backtracks": rules(pre_tokenizer=slow("(a+)+$")),
    "a regex that is none": rules(pre_tokenizer=slow("((")),
    "100,000 added tokens": rules(added_tokens=[token(number) for number in range(100_000)]),
    "deep": rules(normalizer=nested(100)),
    "no model": rules(model=None),
    "another model": rules(model={"type": "os.system"}),
    "ids beyond the embedding": rules(model={"type": "WordLevel", "vocab": {"[U]": 10**6}, "unk_token": "[U]"}),
    "negative ids": rules(model={"type": "WordLevel", "vocab": {"[U]": -1}, "unk_token": "[U]"}),
    "merges of nothing": rules(model={"type": "BPE", "vocab": {}, "merges": [["a", "b"]] * 10}),
    "no list": [],
    "nothing": {},
}
