"""DreamBooth's class pictures (Ruiz et al. 2022, arXiv:2208.12242): those the data set has, and those the base makes.

A made picture is kept under a hash of all that it follows from, by its number, so no run makes one twice, and asking
for more makes only those. Knows nothing about losses.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from contracts.buckets import GlobalBatch, Schedule
from contracts.config import digest
from contracts.dataset import VersionRow
from contracts.mixing import Mixture, Samples
from contracts.objective import CLASS_PICTURES_AT_ONCE, PriorSettings
from contracts.precision import Quantization
from sdxl.base import Base, load_base
from sdxl.conditioning import join
from sdxl.sampling import sample, to_bytes
from trainer.control import StopRequested
from trainer.files import write_atomically
from trainer.images import DAMAGED, IdentityMemory
from trainer.latents import OnDone, Texts
from trainer.processes import Processes


@dataclass(frozen=True)
class Prior:
    """Which class pictures go beside each step's batch."""

    schedule: Schedule
    first: int
    """Place of the first class picture among the run's samples, which begin with the others."""

    def placed(self, batch: GlobalBatch) -> GlobalBatch:
        """A batch of the schedule, by the places of its samples in the run."""
        return batch._replace(samples=tuple(self.first + sample for sample in batch.samples))


def class_samples(mixture: Mixture, prompt: str) -> Samples:
    """The class pictures of a data set as samples; one without a caption has the class prompt."""
    found = mixture.samples
    rows = tuple(row if row.caption else row.model_copy(update={"caption": prompt}) for row in found.rows)
    return Samples(rows, found.sometimes)


def class_pictures(
    own: Samples,
    read_own: Callable[[str], bytes],
    settings: PriorSettings,
    base: Base,
    identities: tuple[str, str],
    side_px: int,
    texts: Callable[[], Texts],
    dtype: torch.dtype,
    quantize: Quantization | None,
    processes: Processes,
    cache_dir: Path,
    on_done: OnDone,
) -> tuple[Samples, Callable[[str], bytes]]:
    """The class pictures of the data set and those it lacks, and how to read these and its own.

    Raises:
        StopRequested: as ``made_pictures``.
    """
    missing = settings.to_make(len({row.image for row in own.rows}))
    if not missing:
        return own, read_own
    memory, folder = IdentityMemory(cache_dir / "pictures.jsonl"), cache_dir / "class-pictures"
    rows, files = made_pictures(
        folder, base, identities, settings, missing, side_px, texts, dtype, quantize, processes, memory, on_done
    )

    def read(image: str) -> bytes:
        return files[image].read_bytes() if image in files else read_own(image)

    return Samples((*own.rows, *rows), own.sometimes), read


def made_pictures(
    folder: Path,
    base: Base,
    identities: tuple[str, str],
    settings: PriorSettings,
    count: int,
    side_px: int,
    texts: Callable[[], Texts],
    dtype: torch.dtype,
    quantize: Quantization | None,
    processes: Processes,
    memory: IdentityMemory,
    on_done: OnDone,
) -> tuple[tuple[VersionRow, ...], dict[str, Path]]:
    """The first ``count`` class pictures the base makes, as rows, and their files by identity; makes what is not there.

    Args:
        folder: of all made pictures.
        base: its description, with the scheduler's config it is sampled with.
        identities: of the base and of its VAE.
        texts: gives what encodes captions; asked when there is something to make.
        quantize: how the base's transformers are kept, as in training, so that they take no more memory than there.

    Raises:
        StopRequested: ``on_done`` said so; what was made is kept.
    """
    key = digest(
        {
            "base": list(identities),
            "prompt": settings.class_prompt,
            "steps": settings.sampling_steps,
            "guidance": settings.guidance_scale,
            "seed": settings.seed,
            "side_px": side_px,
            "predicts": base.scheduler_config["prediction_type"],
            "dtype": str(dtype),
            # Added where it is used alone, so that pictures made before it counted are found.
            **({"quantize": quantize} if quantize else {}),
        }
    )
    folder = folder / key[:32]
    folder.mkdir(parents=True, exist_ok=True)
    batches = range(math.ceil(count / CLASS_PICTURES_AT_ONCE))
    missing = processes.from_main([batch for batch in batches if _lacks(folder, batch, memory)])
    if missing:
        _make(folder, base, settings, missing, side_px, texts, dtype, quantize, processes, on_done)
    rows: list[VersionRow] = []
    files: dict[str, Path] = {}
    for number in range(count):
        file = _file(folder, number)
        known = memory.identify(file.read_bytes())
        files[known.image] = file
        rows.append(
            VersionRow(
                image=known.image,
                caption=settings.class_prompt,
                original_width=known.width,
                original_height=known.height,
                source_name=f"class picture {number}",
            )
        )
    return tuple(rows), files


def _make(
    folder: Path,
    described: Base,
    settings: PriorSettings,
    batches: Sequence[int],
    side_px: int,
    texts: Callable[[], Texts],
    dtype: torch.dtype,
    quantize: Quantization | None,
    processes: Processes,
    on_done: OnDone,
) -> None:
    mine = batches[processes.rank :: processes.count]
    # What encodes captions has left memory when the rest comes.
    encode = texts()
    prompt, nothing = (join([encode(text)] * CLASS_PICTURES_AT_ONCE) for text in (settings.class_prompt, None))
    del encode
    loaded = load_base(
        described.path, dtype=dtype, device=processes.device, components={"unet", "vae"}, quantize=quantize
    )
    base = replace(loaded, scheduler_config=described.scheduler_config)
    stopped = False
    for done, batch in enumerate(mine, start=1):
        numbers = [batch * CLASS_PICTURES_AT_ONCE + place for place in range(CLASS_PICTURES_AT_ONCE)]
        pictures = sample(
            base,
            prompt.to(device=processes.device),
            negative=nothing.to(device=processes.device) if settings.guidance_scale > 1 else None,
            seeds=[settings.seed + number for number in numbers],
            steps=settings.sampling_steps,
            guidance_scale=settings.guidance_scale,
            width=side_px,
            height=side_px,
        )
        for number, picture in zip(numbers, to_bytes(pictures), strict=True):
            png = io.BytesIO()
            Image.fromarray(picture).save(png, "PNG")
            write_atomically(_file(folder, number), png.getvalue())
        made = min(done * processes.count, len(batches))
        if stopped := on_done(made * CLASS_PICTURES_AT_ONCE, len(batches) * CLASS_PICTURES_AT_ONCE):
            break
    del base, loaded
    if int(processes.sum_(torch.tensor(int(stopped), device=processes.device))):
        raise StopRequested


def _lacks(folder: Path, batch: int, memory: IdentityMemory) -> bool:
    """Whether one of a batch's pictures is not there, or cannot be read."""
    for place in range(CLASS_PICTURES_AT_ONCE):
        file = _file(folder, batch * CLASS_PICTURES_AT_ONCE + place)
        try:
            memory.identify(file.read_bytes())
        except DAMAGED:
            return True
    return False


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.png"
