"""T5 text encoders (Raffel et al. 2020), alone or beside CLIP, and UMT5, which has the same interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphengine.models.network import known_ids, refusing, transformers_config, transformers_network
from graphengine.models.source import Source
from graphengine.models.tokenizer import every_token, open_tokenizer


class T5Encoder:
    """Tokenizer and T5EncoderModel (or UMT5EncoderModel) of a checkpoint."""

    def __init__(self, source: Source, part: str, tokenizer: str, device: str, dtype: torch.dtype):
        from transformers.models.auto.tokenization_auto import AutoTokenizer

        where = f"{source.name}/{part}"
        self._tokenizer: Any = open_tokenizer(AutoTokenizer, source, tokenizer)
        model_class, config_class = _classes(source.class_of(part))
        config = transformers_config(config_class, source.config(part), where)
        tensors = source.tensors(part, dtype)
        self.network: Any = transformers_network(model_class, config, tensors, where, device, dtype)
        self._device = device

    def read(self, text: str) -> list[tuple[int, str]]:
        """Every token with its id, also those that are cut."""
        return every_token(self._tokenizer, text)

    def tokens(self, text: str, length: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Token ids `[1, length]`, padded; the mask of the real ones, bool `[1, length]`; the words that did not fit."""
        with refusing("the tokenizer cannot read the prompt"):
            made = self._tokenizer(text, padding="max_length", max_length=length, truncation=True)
            every = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            pieces = self._tokenizer.convert_ids_to_tokens(every[length - 1 :])
            ids = known_ids(torch.tensor([made["input_ids"]]), self.network)
            mask = torch.tensor([made["attention_mask"]]).bool()
        return ids, mask, tuple("".join(pieces).replace("▁", " ").split())

    @torch.no_grad()
    def run(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last hidden state `[1, N, D]` on the device; without a mask padding is read like words."""
        if mask is not None:
            mask = mask.to(self._device)
        return self.network(input_ids=ids.to(self._device), attention_mask=mask).last_hidden_state


def _classes(name: str) -> tuple[Any, Any]:
    """The network's class and its config's, by the name in the config."""
    if name.startswith("UMT5"):
        from transformers.models.umt5.configuration_umt5 import UMT5Config
        from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

        return UMT5EncoderModel, UMT5Config
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    return T5EncoderModel, T5Config
