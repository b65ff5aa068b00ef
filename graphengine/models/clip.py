"""CLIP text encoders, alone or as one of several."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.network import known_ids, refusing, transformers_config, transformers_network
from graphengine.models.source import Source
from graphengine.models.tokenizer import every_token, open_tokenizer

SHORTEST = 3
"""A beginning, a word and an end."""
FEW = 2000
"""Tokens of a vocabulary that is made of a model's own few words; that of CLIP has 49,408."""
WORD = re.compile(r"[^\W\d_]+")


class ClipEncoder:
    """Tokenizer and CLIPTextModel (or CLIPTextModelWithProjection) of a checkpoint."""

    def __init__(self, source: Source, part: str, tokenizer: str, device: str, dtype: torch.dtype):
        from transformers.models.clip.configuration_clip import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        projects = source.class_of(part) == "CLIPTextModelWithProjection"
        where = f"{source.name}/{part}"
        self._tokenizer: Any = open_tokenizer(CLIPTokenizer, source, tokenizer)
        self.network: Any = transformers_network(
            CLIPTextModelWithProjection if projects else CLIPTextModel,
            transformers_config(CLIPTextConfig, source.config(part), where),
            source.tensors(part, dtype),
            where,
            device,
            dtype,
        )
        self._device = device
        self.skip = 0
        """Layers left out at the end."""
        with refusing(f"{where} has no length"):
            lengths = self.network.config.max_position_embeddings, self._tokenizer.model_max_length
            self._length = min(map(int, lengths))
        if self._length < SHORTEST:
            raise CheckpointError(f"{where} reads {self._length} tokens; a prompt needs at least {SHORTEST}.")

    def tokens(self, text: str) -> tuple[Tensor, tuple[str, ...]]:
        """Token ids `[1, 77]`, padded, and the words that did not fit."""
        with refusing("the tokenizer cannot read the prompt"):
            made = self._tokenizer(text, padding="max_length", max_length=self._length, truncation=True)
            every = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            cut = self._tokenizer.convert_ids_to_tokens(every[self._length - 2 :])
            ids = known_ids(torch.tensor([made["input_ids"]]), self.network)
        return ids, tuple(token.removesuffix("</w>") for token in cut)

    def unknown(self, text: str) -> tuple[str, ...]:
        """Words that a vocabulary of few words has no token for: they are spelt, and mean nothing to the model."""
        if len(self._tokenizer) > FEW:
            return ()
        words = dict.fromkeys(WORD.findall(text))
        with refusing("the tokenizer cannot read the prompt"):
            return tuple(word for word in words if len(self._tokenizer.tokenize(word)) > 1)

    def places(self, text: str) -> list[tuple[int, int] | None]:
        """For each row of the features: where its token begins and ends in the text, None for marks and padding."""
        with refusing("the tokenizer cannot read the prompt"):
            made = self._tokenizer(
                text, padding="max_length", max_length=self._length, truncation=True, return_offsets_mapping=True
            )
        return [(begin, end) if end > begin else None for begin, end in made["offset_mapping"]]

    def read(self, text: str) -> list[tuple[int, str]]:
        """Every token with its id, also those that are cut."""
        return every_token(self._tokenizer, text)

    @property
    def limit(self) -> int:
        """How many tokens are read, the marks at both ends included."""
        return self._length

    @torch.no_grad()
    def features(self, ids: Tensor) -> Tensor:
        """The last layer's states, or an earlier one's, normalised: `[1, 77, D]` on the CPU."""
        output = self.run(ids)
        if not self.skip:
            return output.last_hidden_state.cpu()
        inner = getattr(self.network, "text_model", self.network)
        return inner.final_layer_norm(output.hidden_states[-1 - self.skip]).cpu()

    @torch.no_grad()
    def run(self, ids: Tensor) -> Any:
        """The network's output with all hidden states."""
        return self.network(input_ids=ids.to(self._device), output_hidden_states=True)
