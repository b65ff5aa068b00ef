"""Pictures as prompts: IP-Adapter (Ye et al. 2023).

What a CLIP vision model sees becomes a few tokens, to which every cross-attention of a U-Net pays attention besides the
text's, by keys and values of its own.  The layers that do so are a twin's; tokens come with the prompt, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from graphengine.errors import CheckpointError
from graphengine.models import ip_adapter_files as files
from graphengine.models.weights import load_tensors
from graphengine.values import Patch

if TYPE_CHECKING:
    from graphengine.guiding import PicturePrompt

ROUNDING = 1e-5
"""How far a noise level may be from its own step's."""
# In the network


def install(network: Any, patch: Patch) -> None:
    """Let the cross-attentions of a U-Net pay attention to pictures, in place: give it a twin.

    Raises:
        CheckpointError: it is no U-Net, or one of other layers.
    """
    processors = getattr(network, "attn_processors", {})
    layers = [name.removesuffix(".processor") for name in processors if name.endswith("attn2.processor")]
    tensors = load_tensors([Path(patch.place)], None, files.ATTENTION)
    name, kind = patch.name, type(network).__name__
    if kind != "UNet2DConditionModel" or not layers:
        raise CheckpointError(f"{name} shows pictures to a U-Net; this model is a {kind}.")
    if len(tensors) != 2 * len(layers):
        raise CheckpointError(
            f"{name} was made for another model: it has {len(tensors) // 2} layers, this one {len(layers)}."
        )
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise CheckpointError(f"{name} cannot be used: its keys and values hold no fractions.")
    for number, path in enumerate(layers):
        layer = network.get_submodule(path)
        # numbered among all attentions, of which every second is a cross-attention
        pair = [tensors.get(f"{2 * number + 1}.to_{part}_ip.weight") for part in "kv"]
        for found, own in zip(pair, (layer.to_k.weight, layer.to_v.weight), strict=True):
            if found is None or found.shape != own.shape:
                seen = "none" if found is None else list(found.shape)
                raise CheckpointError(
                    f"{name} was made for another model: the keys or values for {path} are {seen}, its own "
                    f"{list(own.shape)}."
                )
        layer.processor = Seeing(layer, patch.digest, pair)


class Seeing(nn.Module):
    """Cross-attention that pays attention to a text, and to pictures besides (eq. 5)."""

    def __init__(self, layer: Any, digest: str, pair: list[Any]):
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        super().__init__()
        plain = layer.processor
        if isinstance(plain, Seeing):
            self.plain, self.keys, self.values = plain.plain, plain.keys, plain.values
        elif isinstance(plain, AttnProcessor | AttnProcessor2_0):
            self.plain, self.keys, self.values = plain, nn.ParameterDict(), nn.ParameterDict()
        else:
            raise CheckpointError(f"pictures cannot be shown to a network with {type(plain).__name__}.")
        key, value = (nn.Parameter(tensor.to(layer.to_k.weight), requires_grad=False) for tensor in pair)
        self.keys[digest], self.values[digest] = key, value

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        ip_hidden_states: tuple[PictureTokens, ...] = (),
    ) -> Tensor:
        """The layer's output; the names are those by which diffusers hands things to a processor."""
        pictures = [each for each in ip_hidden_states if each.adapter in self.keys]
        if not pictures or encoder_hidden_states is None:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask)
        rows, length, _ = encoder_hidden_states.shape
        words = attn.norm_encoder_hidden_states(encoder_hidden_states) if attn.norm_cross else encoder_hidden_states

        def heads(tensor: Tensor) -> Tensor:
            return tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        mask = attn.prepare_attention_mask(attention_mask, length, rows)
        mask = None if mask is None else mask.view(rows, attn.heads, -1, mask.shape[-1])
        query = heads(attn.to_q(hidden_states))
        found = functional.scaled_dot_product_attention(
            query, heads(attn.to_k(words)), heads(attn.to_v(words)), attn_mask=mask
        )
        for each in pictures:
            tokens = each.tokens.to(query)
            key, value = (functional.linear(tokens, table[each.adapter]) for table in (self.keys, self.values))
            first, last = each.rows
            seen = functional.scaled_dot_product_attention(query[first:last], heads(key), heads(value))
            found[first:last] += each.strength * seen
        return attn.to_out[1](attn.to_out[0](found.transpose(1, 2).flatten(2))) / attn.rescale_output_factor


# In the prompt


@dataclass(frozen=True, eq=False)
class PictureTokens:
    """Tokens `[B, n, D]` of pictures for some rows of a batch, their adapter's digest, and when they are shown."""

    adapter: str
    tokens: Tensor
    strength: float
    levels: tuple[float, float]
    """The lowest and the highest noise level."""
    rows: tuple[int, int]

    def shown(self, sigma: float) -> bool:
        return self.levels[0] * (1 - ROUNDING) <= sigma <= self.levels[1] * (1 + ROUNDING)

    def moved(self, by: int) -> PictureTokens:
        return replace(self, rows=(self.rows[0] + by, self.rows[1] + by))


def shown(
    prompts: tuple[PicturePrompt, ...], batch: int, device: str, sigmas: list[float], nothing: bool = False
) -> tuple[PictureTokens, ...]:
    """The pictures of a prompt made ready for a batch, or what their adapters make of nothing.

    Args:
        sigmas: the noise level of every step.
    """
    ready: list[PictureTokens] = []
    for each in prompts:
        inside = sigmas[round(each.start * len(sigmas)) : round(each.end * len(sigmas))]
        tokens = each.unwanted if nothing else each.wanted
        if tokens.shape[0] not in (1, batch):
            raise ValueError(f"{tokens.shape[0]} pictures cannot be shown to a batch of {batch}.")
        if inside:
            rows = tokens.to(device).expand(batch, *tokens.shape[1:])
            ready.append(PictureTokens(each.adapter.digest, rows, each.strength, (inside[-1], inside[0]), (0, batch)))
    return tuple(ready)


def arguments(pictures: tuple[PictureTokens, ...]) -> dict[str, Any]:
    """Pictures as arguments of the U-Net."""
    return {"cross_attention_kwargs": {"ip_hidden_states": pictures}} if pictures else {}
