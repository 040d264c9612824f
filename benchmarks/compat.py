"""Do other programs' own loaders read what we write? Runs ComfyUI's, sd-scripts' and Forge's over our files.

    make compat PEER_DIR=DIR      # DIR holds clones named ComfyUI, sd-scripts and stable-diffusion-webui-forge

Writes LoRAs of every layer at SDXL's full size in kohya's dialect (and one in diffusers'), and the names and shapes
of a full fine-tune's single file; each peer runs in a process of its own and says what it matched and, for a few
layers, whether its arithmetic gives our weights. Nothing of the peers is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sdxl.adapter import AdapterModule, Modules
from sdxl.dialects import Dialect, write
from sdxl.files import COMPONENTS, SDXL_CONFIGS, BaseFiles
from sdxl.networks import empty_network
from sdxl.to_original import origins

PEERS = ("ComfyUI", "sd-scripts", "stable-diffusion-webui-forge")
REAL = BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False)
RANK, ALPHA = 2, 1.5
TRANSFORMER = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out")
RESIDUAL = (".conv1", ".conv2", ".time_emb_proj", ".conv_shortcut", "samplers.0.conv")
CLIP = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")
CHECKPOINT = "checkpoint.json"
TIMEOUT_S = 600


def main() -> int:
    """Run every peer that is there; 1 when one of them misses something or none is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer_dir", type=Path)
    peer_dir = parser.parse_args().peer_dir
    console = Console()
    there = [peer for peer in PEERS if (peer_dir / peer).is_dir()]
    for peer in set(PEERS) - set(there):
        console.print(f"not there: {peer_dir / peer}", markup=False)
    table = Table(box=None)
    for column in ("peer", "file", "modules", "matched", "left over", "largest error", "verdict"):
        table.add_column(column)
    good = bool(there)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for peer in there:
            for found in _findings(peer, peer_dir / peer, Path(folder), console):
                table.add_row(
                    peer, *(str(found[key]) for key in ("file", "modules", "matched", "left_over", "error", "verdict"))
                )
                good = good and found["ok"]
    console.print(table)
    return 0 if good else 1


def write_files(folder: Path) -> None:
    """What the peers are given."""
    linear, everything = _modules(False, False), _modules(True, False)
    files: list[tuple[str, Modules, Dialect]] = [
        ("lora", linear, "kohya"),
        ("locon", everything, "kohya"),
        ("dora", _modules(True, True), "kohya"),
        ("diffusers", linear, "diffusers"),
    ]
    for name, modules, dialect in files:
        write(folder / f"{name}.safetensors", modules, {"ss_output_name": name}, dialect)
    shapes = {}
    for component in COMPONENTS:
        state = empty_network(REAL, component).state_dict()
        if component == "text_encoder":
            state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
        for origin in origins(component, state):
            shapes[origin.name] = list(origin.combine([state[source] for source in origin.sources]).shape)
    (folder / CHECKPOINT).write_text(json.dumps(shapes))


def _modules(convolutions: bool, dora: bool) -> Modules:
    generator, found = torch.Generator().manual_seed(0), {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        ends = CLIP if component != "unet" else TRANSFORMER + (RESIDUAL if convolutions else ())
        for name, layer in empty_network(REAL, component).named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(ends):
                out, inside, *kernel = layer.weight.shape
                plain = name if component == "unet" else "text_model." + name.removeprefix("text_model.")
                found[f"{component}.{plain}"] = AdapterModule(
                    torch.randn(RANK, inside, *kernel, generator=generator) * 0.05,
                    torch.randn(out, RANK, *(1 for _ in kernel), generator=generator) * 0.05,
                    ALPHA,
                    torch.rand(out, generator=generator) + 0.5 if dora else None,
                )
    return found


def _findings(peer: str, where: Path, folder: Path, console: Console) -> Iterator[dict[str, object]]:
    command = [sys.executable, "-m", "benchmarks.compat_peers", peer, str(where.resolve()), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        console.print(f"{peer} did not run:\n{done.stderr[-2000:]}", markup=False)
        nothing = dict.fromkeys(("modules", "matched", "left_over", "error"), "-")
        yield {"file": "-", **nothing, "verdict": "did not run", "ok": False}
    yield from map(json.loads, lines)


if __name__ == "__main__":
    sys.exit(main())
