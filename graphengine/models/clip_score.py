"""How well pictures go with words, by a CLIP (Radford et al. 2021): finding one, and its score (Hessel et al. 2021).

A whole CLIP, with both its encoders, lies in `clip_vision` of a model folder, as a folder in the layout of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError
from graphengine.guiding import Clip
from graphengine.models import clip_files, library
from graphengine.models.clip_files import ClipFiles
from graphengine.models.weights import load_tensors
from graphengine.settings import Settings

if TYPE_CHECKING:
    import PIL.Image
    import torch

WHOLE = "CLIPModel"
TOKENIZER = Path(__file__).parent / "tokenizers" / "clip"
MOST_PIXELS = 2048


class ClipFile(ClipFiles):
    """A whole CLIP."""

    def handle(self) -> Clip:
        return Clip(self.name, self.digest, "", str(self.place))


def find(name: str, settings: Settings) -> ClipFile:
    """The CLIP of a name.

    Raises:
        CheckpointError: there is none, it is pickled, damaged, or something else.
        AssetError: the name leads out of the model folders.
    """
    return at(library.find_part(name, clip_files.KIND, settings, "CLIP"), settings, name)


def at(path: Path, settings: Settings, name: str) -> ClipFile:
    """The CLIP at a place.  Raises CheckpointError."""
    if not path.is_dir():
        raise CheckpointError(
            f"{name} is a single file; a CLIP is a folder with a config.json in transformers' layout."
        )
    return ClipFile.read(name, path, *clip_files.in_folder(path, WHOLE, name), settings)


def scorer(models: Any, handle: Clip, settings: Settings) -> Scorer:
    """The CLIP that a handle names, kept among the models.  Raises CheckpointError, also when it is another by now."""
    file = partial(at, Path(handle.folder), settings, handle.checkpoint)

    def load(device: str, dtype: torch.dtype) -> Scorer:
        found = file()
        if found.digest != handle.digest:
            raise CheckpointError(f"{handle.checkpoint} was changed while the run went on. Run it again.")
        return Scorer(found, device, dtype)

    return models.kept(handle, WHOLE, lambda: file().numbers(), load)


class Scorer:
    """A loaded CLIP."""

    def __init__(self, file: ClipFile, device: str, dtype: torch.dtype):
        from transformers.models.clip.configuration_clip import CLIPConfig
        from transformers.models.clip.modeling_clip import CLIPModel
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        from graphengine.models.network import refusing, transformers_config, transformers_network

        config = transformers_config(CLIPConfig, file.config, file.name)
        tensors = load_tensors(file.files, dtype)
        self.network: Any = transformers_network(CLIPModel, config, tensors, file.name, device, dtype)
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(TOKENIZER)
        self._device, self._dtype = device, dtype
        with refusing(f"{file.name} has no sizes"):
            self._length = int(config.text_config.max_position_embeddings)
            self._size = int(config.vision_config.image_size)
        if not (3 <= self._length <= 4096 and 0 < self._size <= MOST_PIXELS):
            raise CheckpointError(f"{file.name} reads {self._length} tokens and pictures of {self._size} pixels.")

    def scores(self, prompts: Sequence[str], pictures: Sequence[PIL.Image.Image]) -> list[float]:
        """100 max(cos(word, picture), 0) for each pair (Hessel et al. 2021, eq. 1, scaled as percent): 0..100.

        The words that do not fit are left out; pictures are cropped to their middle square.
        """
        import numpy as np
        import torch

        from graphengine.models.ip_adapter_reading import prepared
        from graphengine.models.network import known_ids

        made = self._tokenizer(list(prompts), padding="max_length", max_length=self._length, truncation=True)
        ids = torch.tensor(made["input_ids"])
        known_ids(ids, self.network.text_model)
        pixels = torch.from_numpy(np.stack([prepared(picture, self._size) for picture in pictures]))
        with torch.no_grad():
            told = self.network(
                input_ids=ids.to(self._device),
                attention_mask=torch.tensor(made["attention_mask"]).to(self._device),
                pixel_values=pixels.to(self._device, self._dtype),
            )
            words, seen = (
                torch.nn.functional.normalize(each.float(), dim=-1) for each in (told.text_embeds, told.image_embeds)
            )
        return (100 * (words * seen).sum(dim=-1).clamp(min=0)).tolist()
