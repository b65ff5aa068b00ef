"""Small tokenizers and language models: a few words, and bytes for all else, the same every time."""

from __future__ import annotations

import json
import string
from typing import Any

from families.harness import NEGATIVE, OTHER, PROMPT, library

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
QWEN_CHAT = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{%- if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MISTRAL_SPECIAL = ["<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
MISTRAL_CHAT = (
    "<s>{%- for message in messages %}{%- set mark = 'INST' if message.role == 'user' else 'SYSTEM_PROMPT' %}"
    "[{{ mark }}]{% for piece in message.content %}{{ piece.text }}{% endfor %}[/{{ mark }}]{% endfor %}"
)
WIDTH, VOCABULARY = 32, 600


def trained(special: list[str]) -> Any:
    """A byte-level BPE of the cases' words, as the tokenizers library makes it."""
    tokenizers = library("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([PROMPT, NEGATIVE, OTHER], trainer)
    return made


def qwen_tokenizer(special: list[str] = QWEN_SPECIAL) -> Any:
    """A Qwen2Tokenizer with a chat template that knows about thinking."""
    model = json.loads(trained(special).to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    made = library("transformers").Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        additional_special_tokens=special[1:],
        pad_token=QWEN_SPECIAL[0],
        eos_token=QWEN_SPECIAL[0],
        unk_token=QWEN_SPECIAL[0],
    )
    made.chat_template = QWEN_CHAT
    return made


def shape(**changes: Any) -> dict[str, Any]:
    """The common sizes of a small decoder."""
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return values | changes


def qwen3(**changes: Any) -> Any:
    transformers = library("transformers")
    return lively(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape(**changes))))


def qwen_vl(eyes: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Qwen2.5-VL with next to no eyes."""
    transformers = library("transformers")
    text = shape(rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]})
    usual = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    parts = {"text_config": text, "vision_config": usual | (eyes or {})}
    config = transformers.Qwen2_5_VLConfig(**parts, tie_word_embeddings=False, **changes)
    return lively(transformers.Qwen2_5_VLForConditionalGeneration(config))


def gemma() -> Any:
    transformers = library("transformers")
    return lively(transformers.Gemma2Model(transformers.Gemma2Config(**shape(query_pre_attn_scalar=8))))


def gemma_tokenizer() -> Any:
    """A GemmaTokenizer, which puts `<bos>` before everything."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = sorted({letter for text in (PROMPT, NEGATIVE, OTHER) for letter in text} | set(string.printable))
    words = [piece for text in (PROMPT, NEGATIVE, OTHER) for piece in text.split()]
    pieces = dict.fromkeys([*special, "▁", *letters])
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        for length in range(1, len(word)):
            if word[: length + 1] not in pieces:
                merges.append((word[:length], word[length]))
                pieces[word[: length + 1]] = None
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return library("transformers").GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def mistral_tokenizer() -> Any:
    """What a PixtralProcessor, which would need torchvision, makes of words, with a chat of contents in pieces."""
    made = library("transformers").TokenizersBackend(
        tokenizer_object=trained(MISTRAL_SPECIAL),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
    )
    made.chat_template = MISTRAL_CHAT
    return made


def mistral3(**changes: Any) -> Any:
    transformers = library("transformers")
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = shape(**changes) | {"model_type": "mistral"}
    config = transformers.Mistral3Config(
        text_config=text, vision_config=eyes | {"model_type": "pixtral", "head_dim": 8}
    )
    return lively(transformers.Mistral3ForConditionalGeneration(config))


def lively(model: Any) -> Any:
    """The model in evaluation mode, its matrices large enough that words matter."""
    torch = library("torch")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        else:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    return model.eval()
