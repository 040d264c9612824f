"""What a LoRA training step costs beside the floor: forward and backward-to-input of the bare frozen UNet.

Ours, peft's layers under autocast, and the floor take turns in one process, so that the machine's moods hit
all alike; ratios are medians over the turns. Prints a table and one JSON line.

    python -m benchmarks.lora_layer [BASE] [--pixels 256] [--batch 1] [--dtype bf16] [--targets attn] [--turns 7]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from rich.table import Table

from contracts.lora import Adaptation
from sdxl.base import load_base
from sdxl.lora import attach_all, target_modules

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENS = 77


def main() -> None:
    asked = _arguments()
    dtype = DTYPES[asked.dtype]

    def unet() -> Any:
        return load_base(asked.base, dtype=dtype, device=asked.device, components={"unet"}).unet

    floor, ours = unet(), unet()
    how = Adaptation(rank=asked.rank, alpha=asked.rank, targets=asked.targets, dora=asked.dora)
    bank = attach_all({"unet": ours}, {"unet": how}, seed=0)
    steps = {
        "floor": _step(floor, [], asked, to_input=True),
        "ours": _step(ours, bank.parameters(), asked),
    }
    if not asked.no_peft:
        theirs = unet()
        settings = LoraConfig(
            r=asked.rank,
            lora_alpha=asked.rank,
            target_modules=list(target_modules(theirs, asked.targets)),
            use_dora=asked.dora,
        )
        theirs = inject_adapter_in_model(settings, theirs)
        trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.data = parameter.data.float()
        steps["peft under autocast"] = _step(theirs, trained, asked, autocast=dtype != torch.float32)
    seconds, processor_seconds = _take_turns(steps, asked.turns, asked.device)
    _report(seconds, processor_seconds, len(bank.module_names), asked)


def _step(
    unet: Any, trained: list[Any], asked: argparse.Namespace, *, to_input: bool = False, autocast: bool = False
) -> Callable[[], None]:
    """One training step without data loading: forward, backward, AdamW."""
    config, side, dtype = unet.config, asked.pixels // 8, DTYPES[asked.dtype]
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    batch = asked.batch
    latents = torch.randn(batch, config.in_channels, side, side, dtype=dtype, device=asked.device)
    text = torch.randn(batch, TOKENS, config.cross_attention_dim, dtype=dtype, device=asked.device)
    added = {
        "text_embeds": torch.randn(batch, pooled, dtype=dtype, device=asked.device),
        "time_ids": torch.full((batch, 6), float(asked.pixels), device=asked.device),
    }
    timesteps = torch.arange(batch, device=asked.device) + 500
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True) if trained else None

    def step() -> None:
        given = latents.detach().requires_grad_(to_input)
        with torch.autocast(torch.device(asked.device).type, dtype=dtype, enabled=autocast):
            predicted = unet(given, timesteps, text, added_cond_kwargs=added).sample
            loss = predicted.float().square().mean()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step


Taken = dict[str, list[float]]


def _take_turns(steps: dict[str, Callable[[], None]], turns: int, device: str) -> tuple[Taken, Taken]:
    """Wall and processor seconds of each turn; the second are the truer ones on a busy CPU."""
    seconds: Taken = {name: [] for name in steps}
    processor_seconds: Taken = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            start, processor_start = time.perf_counter(), time.process_time()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:  # The first turn warms up.
                seconds[name].append(time.perf_counter() - start)
                processor_seconds[name].append(time.process_time() - processor_start)
    return seconds, processor_seconds


def _ratios(taken: Taken) -> dict[str, float]:
    return {
        name: statistics.median(a / b for a, b in zip(turns, taken["floor"], strict=True))
        for name, turns in taken.items()
    }


def _report(seconds: Taken, processor_seconds: Taken, modules: int, asked: argparse.Namespace) -> None:
    table = Table(title=f"LoRA step: {asked.base.name}, {asked.pixels} px, batch {asked.batch}, {asked.dtype}")
    for column in ("what", "seconds", "x floor", "processor seconds", "x floor"):
        table.add_column(column, justify="left" if column == "what" else "right")
    ratios, processor_ratios = _ratios(seconds), _ratios(processor_seconds)
    for name, taken in seconds.items():
        table.add_row(
            name,
            f"{statistics.median(taken):.3f}",
            f"{ratios[name]:.3f}",
            f"{statistics.median(processor_seconds[name]):.3f}",
            f"{processor_ratios[name]:.3f}",
        )
    Console().print(table)
    result = {
        "benchmark": "lora_layer",
        "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "processor_ratios": {name: round(ratio, 4) for name, ratio in processor_ratios.items()},
        "seconds": {name: round(statistics.median(taken), 4) for name, taken in seconds.items()},
        "modules": modules,
        "rank": asked.rank,
        "targets": asked.targets,
        "dora": asked.dora,
        "pixels": asked.pixels,
        "batch": asked.batch,
        "dtype": asked.dtype,
        "device": asked.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a LoRA step against the floor.")
    parser.add_argument("base", type=Path, nargs="?", default=Path("bases/emoji-xl"))
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", choices=("attn", "attn-ff", "attn-ff-conv"), default="attn-ff")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--dora", action="store_true", help="DoRA in place of LoRA")
    parser.add_argument("--no-peft", action="store_true", help="leave peft out: one UNet less in memory")
    return parser.parse_args()


if __name__ == "__main__":
    main()
