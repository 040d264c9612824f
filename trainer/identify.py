"""Find out which base and which data a run is of, and refuse what cannot be: before anything is encoded or loaded.

Knows nothing about caches, models or steps.
"""

from __future__ import annotations

from dataclasses import replace

from sdxl.base import identity
from sdxl.files import few_steps
from trainer.beforehand import described, refuse_too_large
from trainer.caption_report import caption_warnings
from trainer.captions import make_captions
from trainer.inputs import look_at
from trainer.parts import Identified, Job
from trainer.processes import Processes
from trainer.report import Report
from trainer.start import refuse_other_base


def identify(job: Job, processes: Processes, report: Report) -> Identified:
    """Find out which base and which data these are.

    Raises:
        PatinaError: the base or the data cannot be used; what is wrong with both is said together. OUT_OF_MEMORY with
            what makes the run fit; no weight has been read then.
    """
    base_dir, init = job.recipe.base_dir, job.recipe.init_weights
    given = look_at(job.recipe, job.cache_dir)
    base, data = given.base, given.data
    known = described(base, job.cache_dir, job.memory_bytes, processes)
    refuse_too_large(
        job.recipe.config,
        known,
        held_out=bool(given.subject.held_out),
        memory_bytes=job.memory_bytes,
        processes=processes,
    )
    # Hashing a full-size base takes a while: one rank does it for all.
    found = identity(base_dir, cache_dir=job.cache_dir / "identities") if processes.is_main else None
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
        given.parent,
        given.dialect,
        known,
    )
