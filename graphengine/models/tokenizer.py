"""Tokenizers of checkpoints, opened only after what their files ask for has been read.

A tokenizer is a program of a kind: it rewrites text by rules, and a rule that doubles it, forty times in a row, fills
any memory.  Its config may name a class, whose code would be run.  Both are looked at before the library sees them.
"""

from __future__ import annotations

from typing import Any

from graphengine.errors import CheckpointError
from graphengine.models.network import refusing
from graphengine.models.source import Source, check_plain
from graphengine.models.weights import VOCABULARY_LIMIT, only_once, read_object

CLASSES = (
    "CLIPTokenizer",
    "GemmaTokenizer",
    "LlamaTokenizer",
    "PreTrainedTokenizer",
    "Qwen2Tokenizer",
    "T5Tokenizer",
    "TokenizersBackend",
)
"""Classes of tokenizers that a config may name, without `Fast`."""
MOST_ADDED, MOST_GROWTH, MOST_PADDING = 2**14, 64, 2**16


def open_tokenizer(tokenizer_class: Any, source: Source, part: str) -> Any:
    """The tokenizer of a part.  Raises CheckpointError when its files are damaged or ask for too much."""
    folder, where = source.tokenizer(part), f"{source.name}/{part}"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_file() and not path.is_dir():
            raise CheckpointError(f"{where}/{path.name} is no file.")
        if path.is_file() and path.stat().st_size > VOCABULARY_LIMIT:
            raise CheckpointError(f"{where}/{path.name} has more than {VOCABULARY_LIMIT:,} bytes.")
        if path.suffix == ".json" and path.is_file():
            _check(path.name, read_object(path, VOCABULARY_LIMIT, only_once), where)
    with refusing(f"{where} cannot be used"):
        return tokenizer_class.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **source.tokenizer_options(part)
        )


def _check(name: str, said: dict[str, Any], where: str) -> None:
    """Refuse what a tokenizer's file must not ask for."""
    if name == "tokenizer.json":
        _check_rules(said, where)
    elif name in ("tokenizer_config.json", "config.json"):
        check_plain(said, where)
        wanted = said.get("tokenizer_class")
        if wanted is not None and str(wanted).removesuffix("Fast") not in CLASSES:
            raise CheckpointError(f"{where} wants a {str(wanted)[:60]!r}; known are {', '.join(CLASSES)}.")
        if "model_type" in said and name == "config.json":
            raise CheckpointError(
                f"{where} has a model's config.json; a tokenizer needs none, and it would name another."
            )
        for entry in ("extra_ids", "added_tokens_decoder"):
            _check_many(said.get(entry), where)


def _check_many(tokens: Any, where: str) -> None:
    many = tokens if isinstance(tokens, int) else len(tokens or ())
    if many > MOST_ADDED:
        raise CheckpointError(f"{where} adds {many} tokens; at most {MOST_ADDED} may be added to a vocabulary.")


def _check_rules(said: dict[str, Any], where: str) -> None:
    grown = _growth([said.get("normalizer"), said.get("pre_tokenizer"), said.get("post_processor")])
    if grown > MOST_GROWTH:
        raise CheckpointError(f"{where} has rules that make a text more than {MOST_GROWTH} times as long.")
    padding = said.get("padding")
    if isinstance(padding, dict):
        fixed = padding.get("strategy")
        sizes = [*fixed.values()] if isinstance(fixed, dict) else []
        for size in (*sizes, padding.get("pad_to_multiple_of") or 0):
            if not isinstance(size, int) or size > MOST_PADDING:
                raise CheckpointError(f"{where} pads every text to {str(size)[:30]} tokens.")
    _check_many(said.get("added_tokens"), where)


def _growth(rules: Any) -> int:
    """How many times longer rules can make a text, at most; beyond the limit it is not counted on."""
    grown, left = 1, [rules]
    while left and grown <= MOST_GROWTH:
        now = left.pop()
        if isinstance(now, list):
            left += now
        elif isinstance(now, dict):
            left += now.values()
            if now.get("precompiled_charsmap"):
                grown *= MOST_GROWTH  # a table that is not read here; one is usual
            for entry in ("content", "prepend", "single", "pair"):
                value = now.get(entry)
                grown *= max(1, len(value)) if isinstance(value, str | list) else 1
    return grown


def every_token(tokenizer: Any, text: str) -> list[tuple[int, str]]:
    """All tokens of a text, however many, with their ids; the marks at the beginning and the end are among them."""
    with refusing("the tokenizer cannot read the prompt"):
        ids = tokenizer(text, truncation=False)["input_ids"]
        return list(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
