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

import numpy as np
import torch
from colourings import colourings
from curves import draw_loss_curves
from diffusers import AutoencoderKL, EulerDiscreteScheduler
from evaluate import evaluate
from palettes import FIRST_MADE_UP, REAL, SECOND_MADE_UP, recoloured
from pictures import SIDE_PX, TWEMOJI, Pictures, fetch, load_further_pictures, load_pictures
from ranks import rank, ranks
from steady import steady_vae
from styles import COLOUR_WORDS, MADE_UP_STYLES, SIX_STYLES, TWICE_MADE_UP_STYLES, teach_styles
from tokenizer import write_tokenizers
from torch import distributed, nn
from transformers import CLIPTokenizer
from unet import PREDICTION, SCHEDULE, train_unet
from vae import to_model, train_vae

BASE = Path(__file__).resolve().parents[1]
WORK = Path(__file__).resolve().parents[3] / "build" / "demo-base"
SEED = 0
COLOURED_PICTURES = 250
"""Of each real style in each colouring: few, as in the sets that adapters are trained on."""


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
    """VAE, then UNet and text encoders on its latents, more styles, a steadier VAE, and ever more made-up ones."""
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
        torch.set_num_threads(1)
    pictures = load_pictures(WORK / "downloads")
    tokenizers = (
        CLIPTokenizer.from_pretrained(BASE / "tokenizer"),
        CLIPTokenizer.from_pretrained(BASE / "tokenizer_2"),
    )
    vae = train_vae(pictures, WORK / "vae", seed=SEED)
    latents = encode_pictures(vae, pictures.pixels)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    first = train_unet(latents * vae.config.scaling_factor, pictures, tokenizers, WORK / "unet", seed=SEED)
    write_on_first_rank({"vae": vae, **first}, WORK / "first")
    every = pictures.joined(load_further_pictures(WORK / "downloads"))
    vae = AutoencoderKL.from_pretrained(WORK / "first" / "vae", torch_dtype=torch.float32)
    latents = encode_pictures(vae, every.pixels) * vae.config.scaling_factor
    six = teach_styles(SIX_STYLES, WORK / "first", latents, every, tokenizers, WORK / "styles", seed=SEED + 1)
    write_on_first_rank({"vae": vae, **six}, WORK / "second")
    make_last(every, tokenizers)
    draw_curves({"VAE": "vae", "UNet and text encoders": "unet", "six styles": "styles"}, "loss.png")
    more = {"made-up styles": "palettes", "twice as many": "twice", "colour words": "coloured"}
    draw_curves({"VAE with noise in its latents": "steady", **more}, "loss-last.png")


def draw_curves(stages: dict[str, str], name: str) -> None:
    if rank() == 0:
        draw_loss_curves({title: WORK / folder for title, folder in stages.items()}, BASE / name)


def make_last(pictures: Pictures, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
    """What follows, from what stands in ``second``: the VAE again, and the UNet on its latents, three times."""
    vae = steady_vae(WORK / "second", pictures, WORK / "steady", seed=SEED + 2)
    many = pictures.joined(recoloured(pictures, FIRST_MADE_UP))
    latents = encode_pictures(vae, many.pixels)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    scaled = latents * vae.config.scaling_factor
    third = teach_styles(MADE_UP_STYLES, WORK / "second", scaled, many, tokenizers, WORK / "palettes", seed=SEED + 3)
    write_on_first_rank({"vae": vae, **third}, WORK / "third")
    make_twice_as_many(many, tokenizers)
    make_coloured(pictures, tokenizers)


def make_twice_as_many(pictures: Pictures, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
    """Once more with twice as many made-up styles, from what stands in ``third``."""
    vae = AutoencoderKL.from_pretrained(WORK / "third" / "vae", torch_dtype=torch.float32)
    more = pictures.joined(recoloured(pictures, SECOND_MADE_UP))
    scaled = encode_pictures(vae, more.pixels) * vae.config.scaling_factor
    fourth = teach_styles(TWICE_MADE_UP_STYLES, WORK / "third", scaled, more, tokenizers, WORK / "twice", seed=SEED + 4)
    write_on_first_rank({"vae": vae, **fourth}, WORK / "fourth")


def make_coloured(pictures: Pictures, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
    """And with colour words before the six real styles' own, from what stands in ``fourth``."""
    vae = AutoencoderKL.from_pretrained(WORK / "fourth" / "vae", torch_dtype=torch.float32)
    plain = encode_pictures(vae, pictures.pixels)
    coloured, latents = encode_coloured(vae, pictures)
    scaled = torch.cat([plain, latents]) * vae.config.scaling_factor
    every = Pictures.without_pixels(pictures.emoji, pictures.styles).joined(coloured)
    last = teach_styles(COLOUR_WORDS, WORK / "fourth", scaled, every, tokenizers, WORK / "coloured", seed=SEED + 5)
    write_on_first_rank({"vae": vae, **last}, BASE)


@torch.inference_mode()
def encode_coloured(vae: nn.Module, pictures: Pictures) -> tuple[Pictures, torch.Tensor]:
    """Some of every real style's pictures in every colouring: emoji and styles without pixels, and mean latents."""
    real_styles = [pictures.of_style(real) for real in REAL]
    styles = [(its, real) for its in colourings(pictures, seed=SEED) for real in real_styles]
    random = np.random.default_rng(SEED)
    chosen = [random.choice(len(real.emoji), COLOURED_PICTURES, replace=False) for _, real in styles]
    latents = torch.zeros(len(styles), COLOURED_PICTURES, 4, SIDE_PX // 8, SIDE_PX // 8)
    for place, (colouring, real), rows in list(zip(latents, styles, chosen, strict=True))[rank() :: ranks()]:
        place.copy_(_encoded(vae, np.stack([colouring(real.pixels[row]) for row in rows])))
    emoji = [real.emoji[row] for (_, real), rows in zip(styles, chosen, strict=True) for row in rows]
    words = [f"{its.word} {real.styles[0]}" for its, real in styles for _ in range(COLOURED_PICTURES)]
    return Pictures.without_pixels(emoji, words), _summed(latents).flatten(0, 1)


def write_on_first_rank(modules: dict[str, nn.Module], folder: Path) -> None:
    """Write once, and let every rank wait until it is there."""
    if rank() == 0:
        write_base(modules, folder)
    if distributed.is_initialized():
        distributed.barrier()


@torch.inference_mode()
def encode_pictures(vae: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """Mean latents [N, 4, 8, 8] of uint8 [N, 64, 64, 3], not yet scaled; each rank encodes its share."""
    latents = torch.zeros(len(pixels), 4, SIDE_PX // 8, SIDE_PX // 8)
    for start in range(64 * rank(), len(pixels), 64 * ranks()):
        latents[start : start + 64] = _encoded(vae, pixels[start : start + 64])
    return _summed(latents)


def _encoded(vae: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    latents: torch.Tensor = vae.encode(to_model(torch.from_numpy(pixels))).latent_dist.mean
    return latents


def _summed(latents: torch.Tensor) -> torch.Tensor:
    """Each rank's share put together: where it has none, its latents are zero."""
    if ranks() > 1:
        distributed.all_reduce(latents)
    return latents


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
