"""Find out which base and which data a run is of, and refuse what cannot be: before anything is encoded or loaded.

A complete run that is asked for again is of the inputs it had, or refused.

Knows nothing about caches, models or steps.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from contracts.failures import FieldError, InvalidInput, PatinaError
from contracts.rundir import Manifest, RunDir
from contracts.subject import summarise_run
from sdxl.base import identity, require_identity
from sdxl.files import few_steps
from sdxl.formats import read_header
from trainer.beforehand import described, refuse_too_large
from trainer.caption_report import caption_warnings
from trainer.captions import make_captions
from trainer.inputs import look_at
from trainer.parts import Identified, Job
from trainer.processes import Processes
from trainer.report import Report
from trainer.resume import another, called
from trainer.start import refuse_other_base

log = logging.getLogger(__name__)


def identify(job: Job, processes: Processes, report: Report) -> Identified:
    """Find out which base and which data these are.

    Raises:
        PatinaError: the base or the data cannot be used; what is wrong with both is said together. OUT_OF_MEMORY with
            what makes the run fit; no weight has been read then. BASE_MISMATCH: it is not what was registered.
    """
    init = job.recipe.init_weights
    given = look_at(job.recipe, job.cache_dir)
    base, data = given.base, given.data
    known = described(base, job.cache_dir, job.memory_bytes, processes)
    summary = summarise_run(given.subject, given.classes, job.recipe.config, use_cache=job.use_cache)
    refuse_too_large(
        job.recipe.config,
        known,
        summary,
        memory_bytes=job.memory_bytes,
        processes=processes,
    )
    # Hashing a full-size base takes a while: one rank does it for all.
    found = _identity(job) if processes.is_main else None
    base_identity, vae_identity = processes.from_main(found)
    if init is not None:
        refuse_other_base(init, base_identity)
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
    return Identified(
        base,
        base_identity,
        vae_identity,
        replace(data, mixture=given.subject),
        given.classes,
        summary,
        given.parent,
        given.dialect,
        known,
    )


def _identity(job: Job) -> tuple[str, str]:
    base_dir, cache_dir = job.recipe.base_dir, job.cache_dir / "identities"
    if job.base_identity is None:
        return identity(base_dir, cache_dir=cache_dir)
    return require_identity(base_dir, job.base_identity, cache_dir=cache_dir)


def refuse_other_inputs(job: Job, run_dir: RunDir) -> None:
    """A complete run is asked for again: its base, its data and what it started from must be those it had.

    Inputs that are not there any more, or cannot be read, say nothing against it.

    Raises:
        InvalidInput: naming each that is another.
    """
    manifest = Manifest.model_validate_json(run_dir.manifest.read_bytes())
    try:
        given = look_at(job.recipe, job.cache_dir)
        base_identity, _ = identity(job.recipe.base_dir, cache_dir=job.cache_dir / "identities")
    except PatinaError as error:
        log.info("the inputs of the complete run in %s are not compared: %s", run_dir.root, error)
        return
    compared = {
        "/paths/base_dir": another("the base", manifest.base_identity, base_identity),
        "/paths/dataset_dir": another("the data set", manifest.dataset_digest, given.subject.digest),
    }
    others = [FieldError(pointer=pointer, message=words) for pointer, said in compared.items() for words in said]
    weights = run_dir.weights / f"{job.recipe.config.output_name}.safetensors"
    header = read_header(weights) if weights.exists() else None
    if header is not None and header.parent != given.parent:
        message = f"it started from {called(header.parent)}, is now to start from {called(given.parent)}"
        others.append(FieldError(pointer="/init_from", message=message))
    if others:
        raise InvalidInput(
            others,
            message=f"The run in {run_dir.root} is complete after {manifest.step} steps, of other inputs.",
            hint="Give it back those it had, or start the new one in a new --run-dir.",
        )
