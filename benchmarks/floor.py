"""The floor of a training step on a base: forward, and backward to the input, of its bare frozen UNet.

No LoRA step on the same machine, at the same size, batch and type can be cheaper. Prints a table and one JSON line.

    python -m benchmarks.floor BASE [--pixels 256] [--batch 1] [--dtype bf16] [--turns 3]
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
from rich.console import Console
from rich.table import Table

from sdxl.base import load_base

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOKENS = 77


def main() -> None:
    asked = _arguments()
    dtype = DTYPES[asked.dtype]
    unet = load_base(asked.base, dtype=dtype, device=asked.device, components={"unet"}).unet
    forward, both = passes(unet, pixels=asked.pixels, batch=asked.batch, dtype=dtype, device=asked.device)
    seconds = {"forward": _median_s(forward, asked), "floor: forward and backward to the input": _median_s(both, asked)}
    table = Table("what", "seconds", title=f"{asked.base.name}, {asked.pixels} px, batch {asked.batch}, {asked.dtype}")
    for name, taken in seconds.items():
        table.add_row(name, f"{taken:.3f}")
    Console().print(table)
    result = {
        "benchmark": "floor",
        "forward_s": round(seconds["forward"], 4),
        "floor_s": round(seconds["floor: forward and backward to the input"], 4),
        "pixels": asked.pixels,
        "batch": asked.batch,
        "dtype": asked.dtype,
        "device": asked.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    print(json.dumps(result))


def passes(
    unet: Any, *, pixels: int, batch: int, dtype: torch.dtype, device: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """(forward alone, forward and backward to the input) on random inputs of this shape."""
    config, side = unet.config, pixels // 8
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    latents = torch.randn(batch, config.in_channels, side, side, dtype=dtype, device=device)
    text = torch.randn(batch, TOKENS, config.cross_attention_dim, dtype=dtype, device=device)
    added = {
        "text_embeds": torch.randn(batch, pooled, dtype=dtype, device=device),
        "time_ids": torch.full((batch, 6), float(pixels), device=device),
    }
    timesteps = torch.arange(batch, device=device) + 500

    def predict(given: torch.Tensor) -> torch.Tensor:
        predicted: torch.Tensor = unet(given, timesteps, text, added_cond_kwargs=added, return_dict=False)[0]
        return predicted

    @torch.no_grad()
    def forward() -> None:
        predict(latents)

    def both() -> None:
        predict(latents.detach().requires_grad_()).float().square().mean().backward()

    return forward, both


def _median_s(call: Callable[[], None], asked: argparse.Namespace) -> float:
    call()
    taken = []
    for _ in range(asked.turns):
        began = time.perf_counter()
        call()
        if asked.device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the floor of a training step.")
    parser.add_argument("base", type=Path)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
