"""Words that were learned from pictures (textual inversion)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import Context, Field, Node, Ports, Settings, TextEncoder
from graphengine.fingerprint import remembered_digest
from graphengine.models import library
from graphengine.values import Patch


class LoadEmbedding(Node, category="model", lane="io"):
    """Teach a text encoder a word that was learned from pictures.  Several add up.

    Without a `word`, `<name>` and `embedding:name` in a prompt stand for what the file `name.safetensors` holds.
    """

    text_encoder: TextEncoder
    embedding: str = Field(
        description="file in the folder `embeddings` of a model folder",
        json_schema_extra={"models": ["textual_inversion"]},
    )
    word: str = Field(
        "", max_length=200, description="what stands for it in prompts, in whatever case; empty: see above"
    )

    class Outputs(Ports):
        text_encoder: TextEncoder

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        path = library.find_file(inputs["embedding"], "embeddings", settings)
        return {"digest": remembered_digest(path, settings.cache_folder)}

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.textual_inversion import read, words_of

        path = library.find_file(self.embedding, "embeddings", ctx.settings)
        read(path)
        digest = remembered_digest(path, ctx.settings.cache_folder)
        patch = Patch("words", words_of(self.word, self.embedding), (), digest, str(path))
        return self.Outputs(text_encoder=self.text_encoder.patched(patch))
