"""Networks out of a config and tensors: made without memory, then given the weights as they lie in the file."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from graphengine.errors import CheckpointError, out_of_memory

FREE_NUMBERS, FREE_PARAMETERS, LARGEST = 2**26, 1000, 2**20
"""What a config may ask for that no tensor shows: buffers, ties, tables."""
SIZELESS = ("_id", "_ids", "_index", "theta", "_pixels", "_embeddings", "_window", "_length")
"""How entries end that are marks of tokens, or lengths that nothing is made in."""
SMALL = 50_000_000
"""Parameters of a network whose copy costs nothing."""


class _Bounded(TorchFunctionMode):
    """What a constructor makes may hold little more than the tensors that are there.

    Parameters begin without memory; buffers, which are computed and lie in no file, are made as ever, but every step
    is rehearsed without memory first.  So a config with absurd sizes is refused before anything is allocated, and one
    with endless layers after as many as there are tensors for.
    """

    def __init__(self, tensors: Mapping[str, Tensor], where: str):
        super().__init__()
        self._told = f"{where} does not fit its config: that describes far more than its {len(tensors)} tensors."
        self._numbers = FREE_NUMBERS + 2 * sum(tensor.numel() for tensor in tensors.values())
        self._parameters = FREE_PARAMETERS + 4 * len(tensors)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            self._parameters -= 1
            return self._counted(func(*args, **(kwargs | {"device": "meta"})))
        if not any(isinstance(item, Tensor) and item.is_meta for item in (*args, *kwargs.values())):
            self._rehearse(func, args, kwargs)
        return func(*args, **kwargs)

    def _rehearse(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        plain, named = tree_map_only(Tensor, _without_memory, (args, kwargs))
        named.pop("device", None)
        try:
            with torch.device("meta"):
                made = func(*plain, **named)
        except Exception:  # it needs numbers, and so makes no more of them than there are
            return
        self._counted(made)

    def _counted(self, made: Any) -> Any:
        self._numbers -= made.numel() if isinstance(made, Tensor) else 0
        if self._numbers < 0 or self._parameters < 0:
            raise CheckpointError(self._told)
        return made


def _without_memory(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Whatever a library makes of odd values becomes a CheckpointError; Rust's panics are no `Exception`."""
    try:
        yield
    except BaseException as error:
        known = isinstance(error, CheckpointError) or out_of_memory(error)  # the file is not to blame for the latter
        if known or not (isinstance(error, Exception) or _panicked(error)):
            raise
        told = " ".join(str(error).split())[:300] or "no reason was told"
        raise CheckpointError(f"{where}: {type(error).__name__}, {told}") from error


def _panicked(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


def _check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Refuse whole numbers in a config of which not even a list could be made."""
    left: list[tuple[str, Any]] = list(config.items())
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(name, item) for item in value]
        elif isinstance(value, int) and abs(value) > LARGEST and not name.endswith(SIZELESS):
            raise CheckpointError(
                f"{where} has a config that cannot be used: no network's {name} is {str(value)[:30]}."
            )


def diffusers_network(
    model_class: Any, config: Mapping[str, Any], tensors: dict[str, Tensor], where: str, device: str
) -> Any:
    """A diffusers model with its weights, in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit the config.
    """
    _check_sizes(config, where)
    own = {name: value for name, value in config.items() if name != "_class_name"}  # by which others are imported
    with refusing(f"{where} does not fit its config"):
        with _Bounded(tensors, where):
            model = model_class.from_config(own)
        model.load_state_dict(tensors, assign=True)
    _check_numbers(model, where)
    layout = torch.channels_last if _gains(model, device) else torch.preserve_format
    return model.to(device=device, memory_format=layout).eval().requires_grad_(False)


def _check_numbers(model: Any, where: str) -> None:
    """Weights are fractions: whole numbers would fail later, or be read as if they were."""
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise CheckpointError(f"{where} does not fit its config: {name} holds {parameter.dtype}, no fractions.")


def _gains(model: Any, device: str) -> bool:
    """Whether channels-last convolutions are worth the copy of the weights: on a CPU for small networks only."""
    size = sum(parameter.numel() for parameter in model.parameters())
    ranks = {parameter.ndim for parameter in model.parameters()}
    return 4 in ranks and 5 not in ranks and (device != "cpu" or size < SMALL)  # films have rank 5, and no such layout


def transformers_config(config_class: Any, config: Mapping[str, Any], where: str) -> Any:
    """A transformers config.  Raises CheckpointError for values that it does not take."""
    _check_sizes(config, where)
    with refusing(f"{where} has a config that cannot be used"):
        return config_class(**config)


def transformers_network(
    model_class: Any, config: Any, tensors: dict[str, Tensor], where: str, device: str, dtype: torch.dtype
) -> Any:
    """A transformers model with its weights, in evaluation mode.

    Raises:
        CheckpointError: weights are missing or have other shapes.
    """
    whole = [name for name, tensor in tensors.items() if not (tensor.is_floating_point() or name.endswith("_ids"))]
    if whole:  # which would be read as if they were fractions
        raise CheckpointError(f"{where} does not fit its config: {whole[0]} holds {tensors[whole[0]].dtype}.")
    with refusing(f"{where} does not fit its config"):
        with _Bounded(tensors, where), torch.device("meta"):
            model_class(copy.deepcopy(config))
        model, told = model_class.from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, local_files_only=True
        )
    absent = sorted(told["missing_keys"]) + [str(key) for key in told["mismatched_keys"]]
    if absent:
        raise CheckpointError(f"{where} does not fit its config: {', '.join(absent[:3])} missing or of another shape.")
    return model.to(device).eval().requires_grad_(False)


def twin(network: Any) -> Any:
    """A copy of a network's modules that shares all its tensors."""
    shared = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    return copy.deepcopy(network, shared)


def known_ids(ids: Tensor, network: Any) -> Tensor:
    """Token ids that the network has features for; on some devices others end the process.  Raises CheckpointError."""
    known = network.get_input_embeddings().num_embeddings
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < known:
        raise CheckpointError(f"the tokenizer gives the token {int(ids.max())}; its text encoder knows {known}.")
    return ids
