"""Write an SDXL pipeline folder with random weights: real shapes and names where no real weights can be had.

``full`` has the sizes of SDXL base 1.0 (UNet 2567 M, text encoders 123 M and 695 M, VAE 84 M; 7 GB in bf16);
``tiny`` has the same structure in 16 MB; ``ssd-1b`` and ``tiny-ssd-1b`` have that of Segmind's distilled SDXL (UNet
1331 M). The pictures any makes are noise. One network is in memory at a time.

    python -m benchmarks.random_sdxl OUT_DIR [--size tiny] [--tokenizers DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from safetensors.torch import save_file

from sdxl.files import COMPONENTS, SDXL_CONFIGS, TOKENIZERS, BaseFiles, config, model_index
from sdxl.networks import empty_network

Size = Literal["full", "tiny", "ssd-1b", "tiny-ssd-1b"]

POOL = 2**22 + 15
"""Random numbers drawn; longer tensors repeat them. An odd length keeps rows from coming out alike."""
GAIN = 0.6
"""Standard deviation of a weight times the root of its fan-in: keeps activations finite in bf16."""

TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "addition_time_embed_dim": 8,
        "attention_head_dim": [1, 2, 2],
        "block_out_channels": [16, 32, 32],
        "cross_attention_dim": 64,
        "norm_num_groups": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
        "sample_size": 8,
        "transformer_layers_per_block": [1, 1, 2],
    },
    "vae": {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4, "sample_size": 64},
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": 32,
    },
}
TINY["text_encoder_2"] = TINY["text_encoder"]
SSD_1B: dict[str, Any] = {
    "mid_block_type": "UNetMidBlock2D",
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
}
TINY_SSD_1B = SSD_1B | {
    "reverse_transformer_layers_per_block": [[2, 2, 3], [2, 1, 1], 1],
    "transformer_layers_per_block": [1, [1, 1], [2, 2]],
}
CHANGES: dict[Size, dict[str, dict[str, Any]]] = {
    "full": {},
    "tiny": TINY,
    "ssd-1b": {"unet": SSD_1B},
    "tiny-ssd-1b": TINY | {"unet": TINY["unet"] | TINY_SSD_1B},
}
"""What differs from SDXL base 1.0, by component."""


def write_base(
    out: Path,
    *,
    size: Size = "full",
    tokenizers: Path = TOKENIZERS,
    dtype: torch.dtype = torch.bfloat16,
    prediction_type: str = "epsilon",
    seed: int = 0,
) -> None:
    """Write the folder; the same arguments give the same weights."""
    real = BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, tokenizers, single_file=False)
    files = BaseFiles(out, out, out, single_file=False)
    for tokenizer in ("tokenizer", "tokenizer_2"):
        shutil.copytree(tokenizers / tokenizer, out / tokenizer, dirs_exist_ok=True)
    _write_json(out / "model_index.json", model_index(real))
    schedule = config(real, "scheduler") | {"prediction_type": prediction_type}
    _write_json(out / "scheduler" / "scheduler_config.json", schedule)
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator)
    for component in COMPONENTS:
        settings = config(real, component) | CHANGES[size].get(component, {})
        _write_json(out / component / "config.json", settings)
        shapes = {key: tensor.shape for key, tensor in empty_network(files, component).state_dict().items()}
        stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        weights = {key: _weight(key, shape, pool, generator, dtype) for key, shape in shapes.items()}
        save_file(weights, out / component / f"{stem}.safetensors", {"format": "pt"})


def _weight(
    key: str, shape: torch.Size, pool: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    if key.endswith("bias"):
        return torch.zeros(shape, dtype=dtype)
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    scale = GAIN / shape[1:].numel() ** 0.5
    start = int(torch.randint(POOL, (1,), generator=generator))
    out = torch.empty(shape.numel(), dtype=dtype)
    filled = 0
    while filled < len(out):
        piece = pool[start : start + len(out) - filled]
        out[filled : filled + len(piece)] = piece * scale
        filled, start = filled + len(piece), 0
    return out.view(shape)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an SDXL folder with random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=tuple(CHANGES), default="full")
    parser.add_argument("--tokenizers", type=Path, default=TOKENIZERS, help="folder with tokenizer/ and tokenizer_2/")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    asked = parser.parse_args()
    write_base(asked.out, size=asked.size, tokenizers=asked.tokenizers, dtype=getattr(torch, asked.dtype))
    total = sum(path.stat().st_size for path in asked.out.rglob("*.safetensors"))
    Console().print(f"{asked.out}: {total / 2**20:,.0f} MiB of random SDXL ({asked.size})")


if __name__ == "__main__":
    main()
