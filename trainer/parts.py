"""Gather what a run is made of: data, caches, the model. Says what it does as it goes.

Knows nothing about steps, checkpoints or endings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contracts import events
from contracts.adapter import Parent
from contracts.base import BaseDescription
from contracts.buckets import Schedule
from contracts.captions import MOST_VARIANTS
from contracts.dataset import DatasetSummary, VersionRow
from contracts.lora import PublishedDialect
from contracts.mixing import Mixture, Samples
from contracts.train import TrainConfig
from sdxl.base import Base
from sdxl.networks import schedule_as_trained, text_features
from trainer.average import Average
from trainer.beforehand import room_for_latents, room_for_texts
from trainer.captions import Captions, make_captions
from trainer.control import Requests
from trainer.draws import keyed_seed
from trainer.feed import Feed, Views, make_schedule, make_views
from trainer.freeing import give_back_memory
from trainer.latents import Latents, OnDone, Texts, View, cached_latents, cached_texts, live_latents, live_texts
from trainer.loss import alphas_cumprod
from trainer.masks import read_masks
from trainer.mixed import RunData
from trainer.objective import Objective
from trainer.prior import Prior, class_pictures, class_samples
from trainer.processes import Processes
from trainer.recipe import Recipe
from trainer.report import Report
from trainer.room import Need
from trainer.start import start_from
from trainer.texts import TrainedTexts
from trainer.upscaling import upscaling_warning
from trainer.weights import DTYPES, Trainable, load_trainable

PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True)
class Job:
    """What to do and where; the same on every rank."""

    recipe: Recipe
    cache_dir: Path
    use_cache: bool
    """False encodes pictures and captions anew at every use; the result is the same."""
    memory_bytes: int | None = None
    """What the run must fit; None is what its GPU has, and no limit on a processor."""
    base_identity: str | None = None
    """What the base was registered as; None takes it as it is."""


@dataclass(frozen=True)
class Identified:
    """What the run is of, known before anything is encoded or loaded."""

    base: Base
    """Its description only; no network is loaded."""
    base_identity: str
    vae_identity: str
    data: RunData
    """What is trained on and measured, but for class pictures."""
    classes: Mixture
    """The class pictures the data set has."""
    summary: DatasetSummary
    """What plans need to know of both."""
    parent: Parent | None = None
    """What training starts from."""
    dialect: PublishedDialect = "kohya"
    """What a LoRA is published in."""
    described: BaseDescription | None = None
    """What plans need to know of the base, on the main rank, where its shape was traced."""


@dataclass(frozen=True)
class Parts:
    """Everything that is made once and used in every step."""

    schedule: Schedule
    prior: Prior | None
    prompts: tuple[str, ...]
    """Of previews, with the trigger word."""
    feed: Feed
    objective: Objective


def gather(
    job: Job,
    found: Identified,
    processes: Processes,
    requests: Requests,
    report: Report,
    needs: Sequence[Need] = (),
) -> Parts:
    """Encode what is not cached, and load the model last, when the encoders have left memory.

    Args:
        needs: what else will be written, for which the disk must have room beside what is cached.

    Raises:
        PatinaError: a picture cannot be encoded, or DISK_FULL.
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
    class_captions = captions.of_classes()
    masks = None
    if loss.masked is not None:
        on_done = _announcing("reading masks", requests, report)
        masks, without = read_masks(found.data, views.of, base.vae_factor, loss.masked, config.data.flip, on_done)
        if without:
            report.warn(f"{without} pictures have neither a mask nor an alpha channel; the whole of each counts")
    class_rows = () if config.prior is None else class_samples(found.classes, config.prior.class_prompt).rows
    class_texts = {row.caption for row in class_rows} | ({config.prior.class_prompt} if config.prior else set())
    prompts_and_classes = [*prompts, *(class_captions.every(class_texts) or ())]
    encoded = None
    if not config.trains_text:
        encoded = _texts(job, found, captions, prompts_and_classes, processes, requests, report, needs)
    classes, read = _classes(job, found, encoded, processes, requests, report)
    latents = _latents(job, found, views, classes.rows, read, processes, requests, report, needs)
    report(events.Progress(at=time.time(), phase="loading", done=0, total=1))
    give_back_memory()
    model = load_trainable(job.recipe.base_dir, config, processes.device)
    if job.recipe.init_weights is not None:
        start_from(job.recipe.init_weights, model)
    if config.ema is not None:
        model = replace(model, average=Average(model.parameters.vector.data, config.ema.decay))
    report(events.Progress(at=time.time(), phase="loading", done=1, total=1))
    samples = mixture.samples
    pictures = config.batch_size * config.gradient_accumulation_steps * processes.count
    texts = encoded or _trained_texts(model, config, report)
    return Parts(
        schedule=make_schedule(samples, views, pictures, config.seed),
        prior=None
        if config.prior is None
        else Prior(make_schedule(classes, views, pictures, keyed_seed("prior", config.seed)), len(samples.rows)),
        prompts=prompts,
        feed=Feed(
            samples=(*samples.rows, *classes.rows),
            views=views,
            latents=latents,
            texts=texts,
            captions=captions,
            class_captions=class_captions,
            class_from=len(samples.rows),
            masks=masks,
            unmasked_weight=loss.masked.unmasked_weight if loss.masked else 1.0,
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


def _classes(
    job: Job, found: Identified, encoded: Texts | None, processes: Processes, requests: Requests, report: Report
) -> tuple[Samples, Callable[[str], bytes]]:
    """The class pictures as samples, none without a prior, and how to read any picture of the run."""
    config, base, data = job.recipe.config, found.base, found.data
    if config.prior is None:
        return Samples((), {}), data.read
    # The base as it is: only what it is wrong about itself is put right.
    schedule = schedule_as_trained(base.scheduler_config, config.loss.prediction_type, None)
    dtype = DTYPES[config.precision]
    return class_pictures(
        class_samples(found.classes, config.prior.class_prompt),
        data.read,
        config.prior,
        replace(base, scheduler_config=schedule),
        (found.base_identity, found.vae_identity),
        (config.data.resolution_px or base.native_px) // 8 * 8,
        lambda: encoded or live_texts(job.recipe.base_dir, config.data.captions.max_tokens, dtype, processes),
        dtype,
        config.quantize,
        processes,
        job.cache_dir,
        _announcing("making class pictures", requests, report),
    )


def _texts(
    job: Job,
    found: Identified,
    captions: Captions,
    prompts: Sequence[str],
    processes: Processes,
    requests: Requests,
    report: Report,
    needs: Sequence[Need],
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
        room_for_texts(job.cache_dir, text_features(found.base.files) * dtype.itemsize, needs),
    )


def _trained_texts(model: Trainable, config: TrainConfig, report: Report) -> TrainedTexts:
    report.warn("captions are not cached: a text encoder is trained, so each is encoded in every step")
    dropout, max_tokens = config.lora.dropout, config.data.captions.max_tokens
    return TrainedTexts(model.base, model.bank, model.compute, dropout=dropout, max_tokens=max_tokens)


def _latents(
    job: Job,
    found: Identified,
    views: Views,
    classes: Sequence[VersionRow],
    read: Callable[[str], bytes],
    processes: Processes,
    requests: Requests,
    report: Report,
    needs: Sequence[Need],
) -> Latents:
    base_dir, mixture = job.recipe.base_dir, found.data.mixture
    if not job.use_cache:
        return live_latents(base_dir, read, processes)
    if job.recipe.config.data.crop == "random":
        report.warn("latents are not cached: data.crop is random; each is encoded when it is used, and the VAE stays")
        return live_latents(base_dir, read, processes)
    wanted: list[View] = [views.of(row) for row in (*mixture.rows, *classes)]
    if job.recipe.config.data.flip:
        wanted += [views.of(row, flipped=True) for row in (*(pick.row for pick in mixture.train), *classes)]
    on_done = _announcing("caching", requests, report)
    room = room_for_latents(job.cache_dir, found.base, needs)
    return cached_latents(job.cache_dir, base_dir, found.vae_identity, wanted, read, processes, on_done, room)


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
