"""Gather what a run is made of: identities, data, caches, the model. Says what it does as it goes.

Knows nothing about steps, checkpoints or endings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from contracts import events
from contracts.adapter import Parent
from contracts.buckets import Schedule
from contracts.captions import MOST_VARIANTS
from contracts.failures import InvalidInput
from contracts.objective import misfits
from contracts.train import TrainConfig
from sdxl.base import Base, identity, load_base
from sdxl.files import few_steps
from sdxl.networks import schedule_as_trained
from trainer.caption_report import caption_warnings
from trainer.captions import Captions, make_captions
from trainer.control import Requests
from trainer.feed import Feed, Views, make_views
from trainer.images import IdentityMemory
from trainer.latents import Latents, OnDone, Texts, View, cached_latents, cached_texts, live_latents, live_texts
from trainer.loss import alphas_cumprod
from trainer.mixed import RunData, read_run_data
from trainer.objective import Objective
from trainer.processes import Processes
from trainer.recipe import HINT, Recipe
from trainer.report import Report
from trainer.start import parent_of, start_from
from trainer.texts import TrainedTexts
from trainer.upscaling import upscaling_warning
from trainer.weights import DTYPES, Trainable, check_patterns, load_trainable

PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True)
class Job:
    """What to do and where; the same on every rank."""

    recipe: Recipe
    cache_dir: Path
    use_cache: bool
    """False encodes pictures and captions anew at every use; the result is the same."""


@dataclass(frozen=True)
class Identified:
    """What the run is of, known before anything is encoded or loaded."""

    base: Base
    """Its description only; no network is loaded."""
    base_identity: str
    vae_identity: str
    data: RunData
    parent: Parent | None = None
    """What training starts from."""


@dataclass(frozen=True)
class Parts:
    """Everything that is made once and used in every step."""

    schedule: Schedule
    prompts: tuple[str, ...]
    """Of previews, with the trigger word."""
    feed: Feed
    objective: Objective


def identify(job: Job, processes: Processes, report: Report) -> Identified:
    """Find out which base and which data these are.

    Raises:
        PatinaError: the base or the data cannot be used.
    """
    base_dir = job.recipe.base_dir
    base = load_base(base_dir, dtype=torch.float32, components=frozenset())
    if errors := misfits(job.recipe.config.loss, base.prediction_type):
        raise InvalidInput(errors, message="The recipe does not fit the base.", hint=HINT)
    check_patterns(base_dir, job.recipe.config)
    # Hashing a full-size base takes a while: one rank does it for all.
    found = identity(base_dir, cache_dir=job.cache_dir / "identities") if processes.is_main else None
    base_identity, vae_identity = processes.from_main(found)
    init = job.recipe.init_weights
    parent = None if init is None else parent_of(init, job.recipe.config, base_identity)
    data = read_run_data(
        job.recipe.datasets, IdentityMemory(job.cache_dir / "pictures.jsonl"), job.recipe.config.data.concept_weights
    )
    if processes.is_main:
        if distilled := few_steps(base.files):
            report.warn(
                f"the base is called {distilled}: distilled to sample in few steps, which training tends to undo; "
                "train on the model it was made from"
            )
        words = make_captions(job.recipe.config, timesteps=range(1))
        for message in caption_warnings(base.files, data.mixture.rows, words, words.settings.max_tokens):
            report.warn(message)
        if data.mixture.kept_out:
            report.warn(f"{data.mixture.kept_out} pictures are held out by another data set and not trained on")
    return Identified(base, base_identity, vae_identity, data, parent)


def gather(job: Job, found: Identified, processes: Processes, requests: Requests, report: Report) -> Parts:
    """Encode what is not cached, and load the model last, when the encoders have left memory.

    Raises:
        PatinaError: a picture cannot be encoded.
        StopRequested: asked to stop meanwhile; what was encoded is kept.
    """
    config, base, mixture = job.recipe.config, found.base, found.data.mixture
    views = make_views(config.data, base.native_px)
    if said := upscaling_warning(mixture.rows, views.table, config.data.max_upscaling):
        report.warn(said)
    loss = config.loss
    scheduler_config = schedule_as_trained(base.scheduler_config, loss.prediction_type, loss.zero_terminal_snr)
    alphas = alphas_cumprod(scheduler_config).to(processes.device)
    timesteps = range(loss.min_timestep, len(alphas) if loss.max_timestep is None else loss.max_timestep + 1)
    captions = make_captions(config, timesteps)
    prompts = tuple(captions.prompt(prompt) for prompt in config.preview.prompts)
    encoded = None if config.trains_text else _texts(job, found, captions, prompts, processes, requests, report)
    latents = _latents(job, found, views, processes, requests, report)
    report(events.Progress(at=time.time(), phase="loading", done=0, total=1))
    model = load_trainable(job.recipe.base_dir, config, processes.device)
    if job.recipe.init_weights is not None:
        start_from(job.recipe.init_weights, model, found.base_identity)
    report(events.Progress(at=time.time(), phase="loading", done=1, total=1))
    samples = mixture.samples
    texts = encoded or _trained_texts(model, config, report)
    return Parts(
        schedule=Schedule(
            buckets=tuple(views.of(row).placement.bucket for row in samples.rows),
            global_batch=config.batch_size * config.gradient_accumulation_steps * processes.count,
            seed=config.seed,
            sometimes=samples.sometimes,
        ),
        prompts=prompts,
        feed=Feed(
            samples=samples.rows,
            views=views,
            latents=latents,
            texts=texts,
            captions=captions,
            seed=config.seed,
            flip=config.data.flip,
            random_crop=config.data.crop == "random",
            timesteps=timesteps,
            schedule_steps=len(alphas),
            noise_offset=loss.noise_offset,
            scaling_factor=base.vae_scaling_factor,
            latent_channels=base.latent_channels,
            vae_factor=base.vae_factor,
            device=processes.device,
        ),
        objective=Objective(model, scheduler_config, alphas, loss.min_snr_gamma),
    )


def _texts(
    job: Job,
    found: Identified,
    captions: Captions,
    prompts: Sequence[str],
    processes: Processes,
    requests: Requests,
    report: Report,
) -> Texts:
    base_dir, dtype, mixture = job.recipe.base_dir, DTYPES[job.recipe.config.precision], found.data.mixture
    if not job.use_cache:
        return live_texts(base_dir, captions.settings.max_tokens, dtype, processes)
    trained = captions.every(pick.row.caption for pick in mixture.train)
    if trained is None:
        report.warn(
            "text embeddings are not cached: with data.captions a caption has more than "
            f"{MOST_VARIANTS} wordings; each is encoded when it is used, and the text encoders stay in memory"
        )
        return live_texts(base_dir, captions.settings.max_tokens, dtype, processes)
    wanted = sorted({*trained, *(captions.fixed(row.caption) for row in mixture.held_out), *prompts})
    on_done = _announcing("encoding", requests, report)
    return cached_texts(
        job.cache_dir,
        base_dir,
        found.base_identity,
        wanted,
        captions.settings.max_tokens,
        dtype,
        processes,
        on_done,
    )


def _trained_texts(model: Trainable, config: TrainConfig, report: Report) -> TrainedTexts:
    assert model.bank is not None
    report.warn("captions are not cached: a text encoder is trained, so each is encoded in every step")
    return TrainedTexts(model.base, model.bank, dropout=config.lora.dropout, max_tokens=config.data.captions.max_tokens)


def _latents(
    job: Job, found: Identified, views: Views, processes: Processes, requests: Requests, report: Report
) -> Latents:
    base_dir, data = job.recipe.base_dir, found.data
    if not job.use_cache:
        return live_latents(base_dir, data.read, processes)
    if job.recipe.config.data.crop == "random":
        report.warn("latents are not cached: data.crop is random; each is encoded when it is used, and the VAE stays")
        return live_latents(base_dir, data.read, processes)
    wanted: list[View] = [views.of(row) for row in data.mixture.rows]
    if job.recipe.config.data.flip:
        wanted += [views.of(pick.row, flipped=True) for pick in data.mixture.train]
    on_done = _announcing("caching", requests, report)
    return cached_latents(job.cache_dir, base_dir, found.vae_identity, wanted, data.read, processes, on_done)


def _announcing(phase: str, requests: Requests, report: Report) -> OnDone:
    """Tell the report now and then how far encoding is, and answer whether to stop."""
    said_at = 0.0

    def on_done(done: int, total: int) -> bool:
        nonlocal said_at
        if done == total or time.monotonic() - said_at >= PROGRESS_EVERY_S:
            said_at = time.monotonic()
            report(events.Progress(at=time.time(), phase=phase, done=done, total=total))
        return requests.stop_wanted()

    return on_done
