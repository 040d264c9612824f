"""Make the demo base from nothing, or judge the one that is committed.

    python make_base.py fetch                                        # the pictures and the vocabulary
    torchrun --standalone --nproc_per_node 2 make_base.py train      # resumable: start it again to go on
    python make_base.py evaluate                                     # prints the bars, draws the sample sheet

Run through `make demo-base` and `make demo-base-eval`, which do the set-up.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from curves import draw_loss_curves
from diffusers import AutoencoderKL, EulerDiscreteScheduler
from evaluate import evaluate
from palettes import recoloured
from pictures import TWEMOJI, Pictures, fetch, load_further_pictures, load_pictures
from ranks import rank
from steady import steady_vae
from styles import MADE_UP_STYLES, SIX_STYLES, teach_styles
from tokenizer import write_tokenizers
from torch import distributed, nn
from transformers import CLIPTokenizer
from unet import PREDICTION, SCHEDULE, train_unet
from vae import to_model, train_vae

BASE = Path(__file__).resolve().parents[1]
WORK = Path(__file__).resolve().parents[3] / "build" / "demo-base"
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("fetch", "train", "evaluate"))
    what = parser.parse_args().what
    if what == "fetch":
        load_pictures(WORK / "downloads")
        load_further_pictures(WORK / "downloads")
        fetch(TWEMOJI, WORK / "downloads")
        write_tokenizers(WORK / "downloads", BASE)
    elif what == "train":
        make_base()
    else:
        evaluate(BASE, WORK)


def make_base() -> None:
    """VAE, then UNet and text encoders on its latents, more styles, a steadier VAE, and still more styles on that."""
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
        torch.set_num_threads(1)
    pictures = load_pictures(WORK / "downloads")
    tokenizers = (
        CLIPTokenizer.from_pretrained(BASE / "tokenizer"),
        CLIPTokenizer.from_pretrained(BASE / "tokenizer_2"),
    )
    vae = train_vae(pictures, WORK / "vae", seed=SEED)
    latents = encode_pictures(vae, pictures)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    first = train_unet(latents * vae.config.scaling_factor, pictures, tokenizers, WORK / "unet", seed=SEED)
    write_on_first_rank({"vae": vae, **first}, WORK / "first")
    every = pictures.joined(load_further_pictures(WORK / "downloads"))
    vae = AutoencoderKL.from_pretrained(WORK / "first" / "vae", torch_dtype=torch.float32)
    latents = encode_pictures(vae, every) * vae.config.scaling_factor
    six = teach_styles(SIX_STYLES, WORK / "first", latents, every, tokenizers, WORK / "styles", seed=SEED + 1)
    write_on_first_rank({"vae": vae, **six}, WORK / "second")
    make_last(every, tokenizers)
    draw_curves({"VAE": "vae", "UNet and text encoders": "unet", "six styles": "styles"}, "loss.png")
    draw_curves({"VAE with noise in its latents": "steady", "made-up styles": "palettes"}, "loss-last.png")


def draw_curves(stages: dict[str, str], name: str) -> None:
    if rank() == 0:
        draw_loss_curves({title: WORK / folder for title, folder in stages.items()}, BASE / name)


def make_last(pictures: Pictures, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
    """The last two stages, from what stands in ``second``: the VAE again, and the UNet on its latents."""
    vae = steady_vae(WORK / "second", pictures, WORK / "steady", seed=SEED + 2)
    many = pictures.joined(recoloured(pictures, seed=SEED))
    latents = encode_pictures(vae, many)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    scaled = latents * vae.config.scaling_factor
    last = teach_styles(MADE_UP_STYLES, WORK / "second", scaled, many, tokenizers, WORK / "palettes", seed=SEED + 3)
    write_on_first_rank({"vae": vae, **last}, BASE)


def write_on_first_rank(modules: dict[str, nn.Module], folder: Path) -> None:
    """Write once, and let every rank wait until it is there."""
    if rank() == 0:
        write_base(modules, folder)
    if distributed.is_initialized():
        distributed.barrier()


@torch.inference_mode()
def encode_pictures(vae: nn.Module, pictures: Pictures) -> torch.Tensor:
    """Mean latents [N, 4, 8, 8], not yet scaled."""
    batches = to_model(torch.from_numpy(pictures.pixels)).split(64)
    return torch.cat([vae.encode(batch).latent_dist.mean for batch in batches])


def write_base(modules: dict[str, nn.Module], folder: Path) -> None:
    """fp16 safetensors in ``StableDiffusionXLPipeline`` layout."""
    for name, module in modules.items():
        module.half().save_pretrained(folder / name)
        _forget_origin(folder / name / "config.json")
    scheduler = EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading", prediction_type=PREDICTION)
    scheduler.save_pretrained(folder / "scheduler")
    classes = {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True, **classes}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _forget_origin(config: Path) -> None:
    """Take out the folder of this machine a module was loaded from."""
    said = json.loads(config.read_text())
    said.pop("_name_or_path", None)
    config.write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
