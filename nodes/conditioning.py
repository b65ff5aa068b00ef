"""From text to what a denoiser is guided by, and how strongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine import Conditioning, Context, Field, Node, Ports, TextEncoder
from graphengine.values import Guider

if TYPE_CHECKING:
    from graphengine.models.family import Encoded


def note_words(ctx: Context, encoder: TextEncoder, encoded: Encoded) -> None:
    """Tell which words of a prompt the model does not see, and which it does not know."""
    if encoded.cut:
        ctx.note(f"the prompt is too long for the model; it does not see: {' '.join(encoded.cut)}")
    if encoded.unknown:
        ctx.note(f"{encoder.checkpoint} speaks a small language, in which there is no {', '.join(encoded.unknown)}.")


class EncodeText(Node, category="conditioning", lane="gpu"):
    """Encode a prompt with a checkpoint's text encoder.  Words beyond its length are cut, and that is noted.

    CLIP's encoders read weights: `(word:1.3)` counts 1.3 times, `(word)` 1.1 times, `[word]` 1 / 1.1 times; a backslash
    before a bracket makes it a letter.
    """

    encoder: TextEncoder
    text: str = Field("", max_length=20_000, description="the prompt; empty for no guidance by text")

    class Outputs(Ports):
        conditioning: Conditioning

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models import prompt_weights

        encoded = prompt_weights.encode(ctx.models.text_encoder(self.encoder), self.text)
        note_words(ctx, self.encoder, encoded)
        made = Conditioning(encoded.features, self.encoder.kind, self.text, encoded.extras)
        return self.Outputs(conditioning=made)


class Guidance(Node, category="conditioning"):
    """How the prompt pulls: classifier-free guidance with rescaling, limited to a part of the way."""

    scale: float = Field(3.0, ge=0, le=100, description="1 follows the prompt plainly, more exaggerates it")
    rescale: float = Field(0.0, ge=0, le=1, description="0 off; 0.7 keeps contrast natural at large scales")
    start: float = Field(0.0, ge=0, le=1, description="share of the steps after which guidance sets in")
    end: float = Field(1.0, ge=0, le=1, description="share of the steps after which guidance stops")

    class Outputs(Ports):
        guidance: Guider

    def run(self, ctx: Context) -> Outputs:
        if self.end <= self.start:
            raise ValueError(f"guidance must end ({self.end}) after it starts ({self.start}).")
        return self.Outputs(guidance=Guider(self.scale, self.rescale, self.start, self.end))
