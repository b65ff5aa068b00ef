"""The training loop that every model shares: schedule, moving average, checkpoints, resumption, a log.

Everything random in step *n* is drawn from generators seeded with (seed, n), so a run that was interrupted and
resumed does exactly what an uninterrupted one would have done.  The state on disk is written beside its final
name and renamed into place; Ctrl-C writes it once more before leaving.

Glossary
    stage      one model's training: "autoencoder", "encoder", "denoiser", ...
    average    exponential moving average of the weights: what is sampled from and shipped
    log        `<stage>.jsonl`, one line per fifty steps: step, loss, seconds of wall and process time
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from graphengine.training.optimiser import Optimiser

LOG_EVERY = 50


@dataclass
class Stage:
    """One model's training: what is trained, for how long, and where its state is kept."""

    name: str
    modules: dict[str, nn.Module]
    optimiser: Optimiser
    steps: int
    folder: Path
    average_decay: float = 0.998
    warm_up: int = 60
    decay_from: float = 0.5
    clip: float = 1.0
    save_seconds: float = 240.0
    done: int = 0
    losses: list[float] = field(default_factory=list)
    """Of every step so far."""
    averages: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._restore()
        if not self.averages:
            self.averages = {n: _copy(m) for n, m in self.modules.items()}

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, plateau, linear decay to 2 %."""
        start = self.steps * self.decay_from
        falling = 1 - 0.98 * max(0.0, step - start) / max(1.0, self.steps - start)
        return min(1.0, (step + 1) / self.warm_up) * falling

    def run(
        self,
        loss: Callable[[int], Tensor],
        look: Callable[[int], None] | None = None,
        report: Callable[[int, float], None] | None = None,
    ) -> None:
        """Train to the end.  `loss(step)` is differentiated; `look(step)` is called at every save and at the end.

        `report(step, loss)` is called after every step and takes the place of the progress bar; it may raise.
        """
        started = saved = time.perf_counter()
        with _bar(self) if report is None else nullcontext(report) as tell:
            try:
                while self.done < self.steps:
                    self.losses.append(self._step(loss))
                    tell(self.done, self.losses[-1])
                    if self.done % LOG_EVERY == 0:
                        self._log(self.losses[-LOG_EVERY:], started)
                    if time.perf_counter() - saved > self.save_seconds:
                        self.save()
                        if look:
                            look(self.done)
                        saved = time.perf_counter()
            finally:
                self.save()
        if look:
            look(self.done)

    def _step(self, loss: Callable[[int], Tensor]) -> float:
        value = loss(self.done)
        value.backward()
        parameters = [p for m in self.modules.values() for p in m.parameters()]
        nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimiser.step(self.rate(self.done))
        self.done += 1
        decay = min(self.average_decay, (1 + self.done) / (10 + self.done))
        for name, module in self.modules.items():
            current = module.state_dict()
            average = self.averages[name]
            floats = [key for key in average if average[key].is_floating_point()]
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage] - one call for all weights
                [average[k] for k in floats], [current[k] for k in floats], 1 - decay
            )
        return value.item()

    def _log(self, losses: list[float], started: float) -> None:
        line = {
            "step": self.done,
            "loss": sum(losses) / max(1, len(losses)),
            "seconds": round(time.perf_counter() - started, 1),
            "process_seconds": round(time.process_time(), 1),
        }
        with (self.folder / f"{self.name}.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.state.pt"

    def save(self) -> None:
        state = {
            "done": self.done,
            "modules": {n: m.state_dict() for n, m in self.modules.items()},
            "averages": self.averages,
            "optimiser": self.optimiser.state_dict(),
            "losses": self.losses,
        }
        beside = self._file.with_suffix(".tmp")
        torch.save(state, beside)
        os.replace(beside, self._file)

    def _restore(self) -> None:
        if not self._file.exists():
            return
        state = torch.load(self._file, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.averages, self.done = state["averages"], state["done"]
        self.losses = list(state.get("losses", []))

    def averaged(self) -> dict[str, nn.Module]:
        """Load the moving averages into the modules, for good: the end of training."""
        for name, module in self.modules.items():
            module.load_state_dict(self.averages[name])
            module.eval()
        return self.modules


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


@contextmanager
def _bar(stage: Stage) -> Iterator[Callable[[int, float], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(stage.name, total=stage.steps, completed=stage.done, loss=math.nan)
        yield lambda done, loss: bar.update(task, completed=done, loss=loss)
