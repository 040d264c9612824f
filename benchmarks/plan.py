"""Plans beside real runs: predicted memory, tensor bytes counted, rise of RSS, for many configurations; a process each.

What is measured is kept as one JSON file a configuration in build/bench-plan/, so a broken-off call goes on where it
was; ``--again`` measures anew. Full size needs a base written by benchmarks/random_sdxl.py, given by ``--full-base``.
glibc is told to give blocks of 128 KiB and more back at once, as otherwise RSS says what was held some time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.watched import available_gb
from contracts.sizes import size

KEPT = Path("build/bench-plan")
DEMO = Path("bases/emoji-xl")
FULL = Path("build/bench-train/random-sdxl")
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
COUNTED_BAR, RISEN_BAR, RISEN_BYTES = 0.05, 0.10, 20e6


@dataclass(frozen=True)
class Case:
    """One configuration."""

    name: str
    settings: Mapping[str, Any]
    pixels: int = 64
    needs_gb: float = 2.0

    @property
    def full_size(self) -> bool:
        return self.pixels > 64


def _lora(batch: int, precision: str = "fp32", **more: Any) -> dict[str, Any]:
    return {"batch_size": batch, "precision": precision, "lora": {"rank": 16}, **more}


def _full(batch: int, precision: str = "fp32", kind: str = "adamw", **more: Any) -> dict[str, Any]:
    return {"method": "full", "batch_size": batch, "precision": precision, "optimizer": {"kind": kind}, **more}


CHECKPOINTED = {"gradient_checkpointing": True}
EIGHT_BIT = {"optimizer": {"kind": "adamw8bit"}}
BF16_FUSED = {"full": {"master_weights": "bf16-stochastic", "fused_backward": True}}
BOTH_TEXTS = {"rank": 16, "text_encoder": {"rank": 8}, "text_encoder_2": {"rank": 8}}
PREVIEWS = {"preview": {"prompts": ["a cat", "a dog"], "sampling_steps": 2}, "held_out": {"timesteps": 8}}

CASES = (
    Case("demo LoRA fp32, batch 1", _lora(1)),
    Case("demo LoRA fp32, batch 16", _lora(16)),
    Case("demo LoRA fp32, batch 16, checkpointed", _lora(16, **CHECKPOINTED)),
    Case("demo LoRA bf16, batch 4, 8-bit AdamW", _lora(4, "bf16", **EIGHT_BIT)),
    Case("demo LoCon rank 64 fp32, batch 4", _lora(4, lora={"rank": 64, "targets": "attn-ff-conv"})),
    Case("demo DoRA fp32, batch 8", _lora(8, lora={"rank": 16, "dora": True})),
    Case("demo LoRA bf16, batch 16, dropout", _lora(16, "bf16", lora={"rank": 16, "dropout": 0.1})),
    Case("demo LoRA on nf4 bf16, batch 8", _lora(8, "bf16", quantize="nf4")),
    Case("demo LoRA on int8 bf16, batch 16, checkpointed", _lora(16, "bf16", quantize="int8", **CHECKPOINTED)),
    Case("demo LoRA with text encoders fp32, batch 8", _lora(8, lora=BOTH_TEXTS)),
    Case("demo LoRA fp32, batch 4, previews", _lora(4, **PREVIEWS)),
    Case("demo full fp32, batch 1", _full(1)),
    Case("demo full fp32, batch 16, checkpointed, 8-bit AdamW", _full(16, kind="adamw8bit", **CHECKPOINTED)),
    Case("demo full bf16 autocast, batch 16", _full(16, "bf16")),
    Case("demo full bf16 autocast, batch 8, checkpointed, EMA", _full(8, "bf16", ema={}, **CHECKPOINTED)),
    Case(
        "demo full bf16 weights, batch 8, fused, Adafactor",
        _full(8, "bf16", "adafactor", **BF16_FUSED),
    ),
    Case(
        "demo full bf16 weights, batch 4, fused, 8-bit Lion",
        {**_full(4, "bf16", **BF16_FUSED), "optimizer": {"kind": "lion8bit", "max_grad_norm": None}},
    ),
    Case("SDXL LoRA bf16, 256 px, batch 1", _lora(1, "bf16"), 256, 9.0),
    Case(
        "SDXL LoRA bf16, 512 px, batch 2, checkpointed, 8-bit AdamW",
        _lora(2, "bf16", **CHECKPOINTED, **EIGHT_BIT),
        512,
        9.0,
    ),
    Case(
        "SDXL LoRA on nf4 bf16, 512 px, batch 1, checkpointed",
        _lora(1, "bf16", quantize="nf4", **CHECKPOINTED),
        512,
        7.0,
    ),
    Case("SDXL LoRA on int8 bf16, 256 px, batch 2", _lora(2, "bf16", quantize="int8"), 256, 9.0),
)


def main() -> None:
    asked, console = _arguments(), Console()
    KEPT.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if asked.only in case.name:
            _measure(case, asked, console)
    _summarise(console)


def _measure(case: Case, asked: argparse.Namespace, console: Console) -> None:
    """Run one configuration unless it was run before, and keep its last line."""
    file, base = _kept(case), asked.full_base if case.full_size else DEMO
    if file.exists() and not asked.again:
        console.print(f"{case.name}: measured before, kept in {file}")
        return
    if not (base / "model_index.json").exists():
        console.print(f"{case.name}: left out, there is no base {base}")
        return
    if available_gb() < case.needs_gb:
        console.print(f"{case.name}: left out, it needs {case.needs_gb:.0f} GB and {available_gb():.1f} GB are free")
        return
    words = ["benchmarks.plan_run", str(base), f"--settings={json.dumps(dict(case.settings))}"]
    words += [f"--pixels={case.pixels}", f"--identities={KEPT / 'identities'}"]
    env = os.environ | ALLOCATOR
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, check=True, env=env)
    result = json.loads(done.stdout.splitlines()[-1])
    console.print(f"{case.name}: {size(result['predicted'])} planned, {size(result['counted'])} counted")
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2))
    temporary.replace(file)


def _summarise(console: Console) -> None:
    table = Table("configuration", "planned", "counted", "off by", "rise of RSS", "off by", title="plans beside runs")
    rows: dict[str, dict[str, Any]] = {}
    for case in CASES:
        if not _kept(case).exists():
            continue
        found = json.loads(_kept(case).read_text())
        predicted, counted, risen = (found[name] for name in ("predicted", "counted", "risen"))
        of_counted, of_risen = predicted / counted - 1, predicted / risen - 1
        good = [abs(of_counted) <= COUNTED_BAR, abs(of_risen) <= RISEN_BAR or abs(predicted - risen) <= RISEN_BYTES]
        shown = [
            f"{share:+.1%}" if ok else f"{share:+.1%} !" for share, ok in zip((of_counted, of_risen), good, strict=True)
        ]
        table.add_row(case.name, size(predicted), size(counted), shown[0], size(risen), shown[1])
        rows[case.name] = {"predicted": predicted, "counted": counted, "risen": risen, "within": all(good)}
    console.print(table)
    within = sum(row["within"] for row in rows.values())
    print(json.dumps({"benchmark": "plan", "configurations": len(rows), "within": within, "rows": rows}))


def _kept(case: Case) -> Path:
    return KEPT / f"{'-'.join(case.name.replace(',', '').split())}.json"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure plans against runs.")
    parser.add_argument("--full-base", type=Path, default=FULL, help="a full-size base (%(default)s)")
    parser.add_argument("--only", default="", help="configurations with this in their name")
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    return parser.parse_args()


if __name__ == "__main__":
    main()
