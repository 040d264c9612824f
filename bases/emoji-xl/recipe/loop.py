"""A resumable training loop: per-step seeds, EMA, checkpoints written aside and renamed, a loss log.

Knows nothing about what is trained. A step's randomness comes from (seed, step) alone, so a loop that
was killed and started again continues as if nothing had happened.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

SAVE_EVERY_STEPS = 250
LOG_EVERY_STEPS = 25

Step = Callable[[int, torch.Generator], torch.Tensor]


def train(
    modules: dict[str, nn.Module],
    loss_of: Step,
    learning_rate: Callable[[int], float],
    steps: int,
    folder: Path,
    *,
    seed: int,
    weight_decay: float = 0.0,
    ema_decay: float = 0.999,
) -> dict[str, dict[str, torch.Tensor]]:
    """Train ``modules`` jointly to step ``steps``; return their EMA state dicts."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    ema = [p.detach().clone() for p in parameters]
    first = _load(folder, modules, optimizer, ema)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.4f}")) as progress:
        task = progress.add_task(folder.name, total=steps, completed=first, loss=float("nan"))
        recent: list[float] = []
        for step in range(first, steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            loss = loss_of(step, generator)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            decay = min(ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - decay)
            recent.append(loss.item())
            progress.update(task, advance=1, loss=sum(recent) / len(recent))
            if (step + 1) % LOG_EVERY_STEPS == 0:
                _log(folder, step + 1, sum(recent) / len(recent))
                recent = []
            if (step + 1) % SAVE_EVERY_STEPS == 0 or step + 1 == steps:
                _save(folder, step + 1, modules, optimizer, ema)
    return _ema_states(modules, ema)


def read_log(folder: Path) -> tuple[list[int], list[float]]:
    """The loss curve; where a resumed run logged a step twice, the later line counts."""
    lines = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    curve = {line["step"]: line["loss"] for line in lines}
    return sorted(curve), [curve[step] for step in sorted(curve)]


def load_ema(folder: Path, modules: dict[str, nn.Module]) -> int:
    """Put the newest EMA weights into ``modules``; return the step they are of."""
    state = torch.load(folder / "state.pt", weights_only=True)
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, average in zip(parameters, state["ema"], strict=True):
            parameter.copy_(average)
    return int(state["step"])


def _ema_states(modules: dict[str, nn.Module], ema: list[torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    averages = iter(ema)
    return {
        key: {name: next(averages) for name, p in module.named_parameters() if p.requires_grad}
        for key, module in modules.items()
    }


def _log(folder: Path, step: int, loss: float) -> None:
    with (folder / "loss.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": round(loss, 6)}) + "\n")


def _save(
    folder: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, ema: list[torch.Tensor]
) -> None:
    states = {key: module.state_dict() for key, module in modules.items()}
    temporary = folder / "state.tmp"
    torch.save({"step": step, "modules": states, "optimizer": optimizer.state_dict(), "ema": ema}, temporary)
    temporary.rename(folder / "state.pt")


def _load(
    folder: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, ema: list[torch.Tensor]
) -> int:
    path = folder / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for key, module in modules.items():
        module.load_state_dict(state["modules"][key])
    optimizer.load_state_dict(state["optimizer"])
    for average, stored in zip(ema, state["ema"], strict=True):
        average.copy_(stored)
    return int(state["step"])
