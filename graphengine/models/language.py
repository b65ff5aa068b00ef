"""Decoder-only language models as text encoders: Qwen3, Qwen2.5-VL, Gemma 2 and Mistral 3.

Their hidden states are read, no word is ever generated, so the head and a model's eyes are left out.  Attention is causal:
padding on the right changes nothing to its left, and is only made for denoisers that read the padding as well.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.network import known_ids, refusing, transformers_config, transformers_network
from graphengine.models.source import Source
from graphengine.models.template import render
from graphengine.models.tokenizer import every_token, open_tokenizer

LANGUAGE_MODELS = {
    "gemma2": ("gemma2", "Gemma2Config", "gemma2", "Gemma2Model"),
    "mistral3": ("mistral3", "Mistral3Config", "mistral", "MistralModel"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2_5_VLConfig", "qwen2_5_vl", "Qwen2_5_VLTextModel"),
    "qwen3": ("qwen3", "Qwen3Config", "qwen3", "Qwen3Model"),
}
"""By the `model_type` of a config: where its class lies and its name, and those of the part that reads words."""
EMBEDDING = "embed_tokens.weight"
"""The tensor whose name shows what the language model's names begin with; vision towers and heads lie elsewhere."""


class LanguageModel:
    """Tokenizer and language model of a checkpoint."""

    def __init__(
        self,
        source: Source,
        device: str,
        dtype: torch.dtype,
        part: str = "text_encoder",
        tokenizer: str = "tokenizer",
    ):
        from transformers.models.auto.tokenization_auto import AutoTokenizer

        config_class, model_class = _classes(source, part)
        where = f"{source.name}/{part}"
        config = transformers_config(config_class, source.config(part), where).get_text_config()
        tensors = _without_prefix(source.tensors(part, dtype), where)
        self.network: Any = transformers_network(model_class, config, tensors, where, device, dtype)
        self._tokenizer: Any = open_tokenizer(AutoTokenizer, source, tokenizer)
        self._device, self._name = device, f"{source.name}/{tokenizer}"

    def chat(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """A conversation as the tokenizer's own template writes it.  Raises CheckpointError when it has none."""
        template = self._tokenizer.chat_template
        if not isinstance(template, str) or not template:
            raise CheckpointError(
                f"{self._name} has no chat template; expected one in the tokenizer's config or folder."
            )
        marks = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items() if token is not None}
        try:
            return render(template, marks | {"messages": messages, "tools": None, "documents": None} | options)
        except ValueError as error:
            raise CheckpointError(f"{self._name} has a chat template that cannot be used: {error}.") from error

    def read(self, text: str) -> list[tuple[int, str]]:
        """Every token with its id, also those that are cut."""
        return every_token(self._tokenizer, text)

    def tokens(
        self, written: str, length: int, prompt: str = "", special: bool = True
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Token ids `[1, N]` of a text, at most `length`, and the words of the prompt within it that did not fit."""
        with refusing(f"{self._name} cannot read the prompt"):
            made = self._tokenizer(written, add_special_tokens=special, return_offsets_mapping=True)
            ids, places = made["input_ids"] or [self._tokenizer.pad_token_id], made["offset_mapping"]
            known = known_ids(torch.tensor([ids[:length]]), self.network)
        cut = ""
        if len(ids) > length:
            begin = max(written.rfind(prompt), 0)
            cut = written[max(places[length][0], begin) : begin + len(prompt)]
        return known, tuple(cut.split())

    def padded(self, ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Ids `[1, length]` with padding on the tokenizer's side, and the mask of the real ones, bool."""
        missing = length - ids.shape[1]
        sides = (missing, 0) if self._tokenizer.padding_side == "left" else (0, missing)
        mask = torch.nn.functional.pad(torch.ones_like(ids, dtype=torch.bool), sides)
        return torch.nn.functional.pad(ids, sides, value=self._tokenizer.pad_token_id), mask

    @torch.no_grad()
    def run(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Hidden states `[1, N, D]` on the device: the embeddings, then every layer's; the last one is normalised."""
        mask = mask.to(self._device) if mask is not None else None
        output = self.network(
            input_ids=ids.to(self._device), attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        return output.hidden_states


def _classes(source: Source, part: str) -> tuple[Any, Any]:
    """The class of the config, and that of the language model."""
    kind = str(source.config(part).get("model_type"))
    if kind not in LANGUAGE_MODELS:
        raise CheckpointError(
            f"{source.name}/{part} is a language model of the type {kind!r}; known are {', '.join(LANGUAGE_MODELS)}."
        )
    config_home, config, home, model = LANGUAGE_MODELS[kind]
    configurations = importlib.import_module(f"transformers.models.{config_home}.configuration_{config_home}")
    models = importlib.import_module(f"transformers.models.{home}.modeling_{home}")
    return getattr(configurations, config), getattr(models, model)


def _without_prefix(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The language model's own tensors: what they are wrapped in, and how it is called, changed over the years."""
    prefix = next((name.removesuffix(EMBEDDING) for name in tensors if name.endswith(EMBEDDING)), None)
    if prefix is None:
        raise CheckpointError(f"{where} has no {EMBEDDING}; expected the weights of a language model.")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
