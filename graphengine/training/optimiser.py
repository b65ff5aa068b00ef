"""Muon for matrices, AdamW for the rest: the optimiser of every model that this project trains.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a weight matrix
by the nearest orthogonal matrix, found with five Newton-Schulz iterations.  Updates are scaled to the root
mean square that AdamW would have (Liu et al. 2025, arXiv:2502.16982, eq. 4), so one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest (semi-)orthogonal matrices of `[n, rows, columns]`, by the quintic Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised.  Takes parameters of two or more dimensions; convolutions count as matrices."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no loss to return
        for group in self.param_groups:
            updates: list[tuple[Tensor, Tensor]] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                velocity = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                look_ahead = parameter.grad.lerp(velocity, group["momentum"])
                updates.append((parameter, look_ahead.flatten(1)))
            _apply(updates, group["lr"])


def _apply(updates: list[tuple[Tensor, Tensor]], rate: float) -> None:
    """Matrices of one shape go through Newton-Schulz together: one batched product instead of many."""

    def shape(update: tuple[Tensor, Tensor]) -> tuple[int, ...]:
        return tuple(update[1].shape)

    for (rows, columns), alike in groupby(sorted(updates, key=shape), key=shape):
        members = list(alike)
        directions = orthogonalise(torch.stack([matrix for _, matrix in members]))
        scale = 0.2 * max(rows, columns) ** 0.5
        for (parameter, _), direction in zip(members, directions, strict=True):
            parameter.sub_(direction.view_as(parameter), alpha=rate * scale)


class Optimiser:
    """Muon and AdamW over named groups of modules, each with its own share of the learning rate."""

    def __init__(self, groups: list[tuple[nn.Module, float]], rate: float, vectors: float = 0.6):
        matrices, others = [], []
        for module, share in groups:
            hidden = {id(p) for p in _hidden_matrices(module)}
            wanted = [p for p in module.parameters() if p.requires_grad]
            matrices.append({"params": [p for p in wanted if id(p) in hidden], "lr": rate * share})
            others.append({"params": [p for p in wanted if id(p) not in hidden], "lr": rate * share * vectors})
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=rate),  # pyright: ignore[reportArgumentType] - groups are parameters too
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        for part in self.parts:
            for group in part.param_groups:
                group["peak"] = group["lr"]

    def step(self, scale: float) -> None:
        """Take one step at `scale` times the peak learning rate, and clear the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def _hidden_matrices(module: nn.Module) -> list[Tensor]:
    """Weights of linear and convolution layers.  Embeddings and narrow ends belong to AdamW."""
    return [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and min(layer.weight.flatten(1).shape) > 8
    ]
