"""A resumable training loop: bf16 compute over fp32 weights, per-step seeds, EMA, checkpoints, a loss log.

Knows nothing about what is trained. A step's randomness comes from (seed, step, rank) alone, so a loop that
was killed and started again goes on where its last checkpoint was. Under ``torchrun`` the ranks share every
step: on two cores two ranks of one thread are nearly twice as fast as one rank of two threads, because the
networks are far too small to be split inside an operation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from muon import Muon
from ranks import rank, ranks
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import distributed, nn

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
    matrices_by_muon: bool = False,
) -> None:
    """Train ``modules`` jointly to step ``steps``, then put their averaged weights into them, in fp32.

    The modules compute in bf16; the weights the optimiser moves, their moments and their averages are fp32.
    AdamW moves them, and with ``matrices_by_muon`` Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)
    those of linear and convolution layers, at AdamW's rate: its updates are scaled to AdamW's size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    live = [p for module in modules.values() for p in module.parameters()]
    weights = [p.detach().clone() for p in live]
    average = [w.clone() for w in weights]
    muon = [matrices_by_muon and is_matrix for is_matrix in _are_matrices(modules)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [w for w, its in zip(weights, muon, strict=True) if not its],
            lr=1e-3,
            betas=(0.9, 0.99),
            weight_decay=weight_decay,
            fused=True,
        )
    ]
    if matrices_by_muon:
        matrices = [w for w, its in zip(weights, muon, strict=True) if its]
        optimizers.append(Muon(matrices, weight_decay=weight_decay))
    for module in modules.values():
        module.bfloat16()
    first = _load(folder, weights, optimizers, average)
    torch._foreach_copy_([p.detach() for p in live], weights)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[loss]}"), disable=rank() > 0) as progress:
        task = progress.add_task(folder.name, total=steps, completed=first, loss="")
        recent: list[float] = []
        for step in range(first, steps):
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = learning_rate(step)
            loss = loss_of(step, torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank()))
            loss.backward()
            _share_gradients(live, weights)
            nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
            for optimizer in optimizers:
                optimizer.step()
            torch._foreach_copy_([p.detach() for p in live], weights)
            torch._foreach_lerp_(average, weights, 1 - min(ema_decay, (1 + step) / (10 + step)))
            recent.append(loss.item())
            progress.update(task, advance=1, loss=f"loss {sum(recent) / len(recent):.4f}")
            if rank() == 0 and (step + 1) % LOG_EVERY_STEPS == 0:
                _log(folder, step + 1, sum(recent) / len(recent))
                recent = []
            if rank() == 0 and ((step + 1) % SAVE_EVERY_STEPS == 0 or step + 1 == steps):
                _save(folder, step + 1, weights, optimizers, average)
    put_average(modules, average)


def put_average(modules: dict[str, nn.Module], average: list[torch.Tensor]) -> None:
    """Make the modules fp32 and give them the averaged weights, in the order of their parameters."""
    for module in modules.values():
        module.float().eval()
    live = [p.detach() for module in modules.values() for p in module.parameters()]
    torch._foreach_copy_(live, average)


def read_log(folder: Path) -> tuple[list[int], list[float]]:
    """The loss curve; where a resumed run logged a step twice, the later line counts."""
    lines = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    curve = {line["step"]: line["loss"] for line in lines}
    return sorted(curve), [curve[step] for step in sorted(curve)]


def _share_gradients(live: list[nn.Parameter], weights: list[torch.Tensor]) -> None:
    """Give the fp32 weights the mean over ranks of the bf16 gradients, sent as one flat tensor."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in live]
    flat = torch.cat([g.reshape(-1) for g in gradients]).float()
    if ranks() > 1:
        distributed.all_reduce(flat)
        flat /= ranks()
    for p, weight, part in zip(live, weights, flat.split([w.numel() for w in weights]), strict=True):
        weight.grad = part.view_as(weight)
        p.grad = None


def _are_matrices(modules: dict[str, nn.Module]) -> list[bool]:
    """For each parameter, in order: whether it is the weight of a linear or a convolution layer."""
    layers = [layer for module in modules.values() for layer in module.modules()]
    matrices = {id(layer.weight) for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)}
    return [id(p) in matrices for module in modules.values() for p in module.parameters()]


def _log(folder: Path, step: int, loss: float) -> None:
    with (folder / "loss.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": round(loss, 6)}) + "\n")


def _save(
    folder: Path,
    step: int,
    weights: list[torch.Tensor],
    optimizers: list[torch.optim.Optimizer],
    average: list[torch.Tensor],
) -> None:
    temporary = folder / "state.tmp"
    moments = [optimizer.state_dict() for optimizer in optimizers]
    state = {"step": step, "weights": weights, "optimizers": moments, "average": average}
    torch.save(state, temporary)
    temporary.rename(folder / "state.pt")


def _load(
    folder: Path, weights: list[torch.Tensor], optimizers: list[torch.optim.Optimizer], average: list[torch.Tensor]
) -> int:
    if not (folder / "state.pt").exists():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    torch._foreach_copy_(weights, state["weights"])
    torch._foreach_copy_(average, state["average"])
    for optimizer, moments in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(moments)
    return int(state["step"])
