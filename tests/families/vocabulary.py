"""Small tokenizers for the cases: a few words, and letters for all others, the same every time."""

from __future__ import annotations

import string
from typing import Any

from families.harness import NEGATIVE, OTHER, PROMPT, library

WORDS = sorted(set(f"{PROMPT} {NEGATIVE} {OTHER}".split()))


def t5_tokenizer(longest: int = 512) -> Any:
    """A T5Tokenizer (Unigram) of fewer than 100 pieces; `<pad>` is 0, `</s>` 1."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    words = [(f"▁{word}", -2.0) for word in WORDS]
    letters = [(letter, -8.0) for letter in string.ascii_lowercase + string.digits + string.punctuation]
    return library("transformers").T5Tokenizer(
        vocab=[*special, *words, *letters], extra_ids=0, model_max_length=longest
    )


def t5_encoder(width: int = 32, **changes: Any) -> Any:
    """A small T5EncoderModel for `t5_tokenizer`, in evaluation mode."""
    transformers = library("transformers")
    values: dict[str, Any] = {
        "vocab_size": 128,
        "d_model": width,
        "d_kv": width // 4,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 32,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    return transformers.T5EncoderModel(transformers.T5Config(**(values | changes))).eval()
