"""Weights & Biases as one sink of the run's events: offline unless there is a key, bounded in time, never fatal.

One W&B run for the run directory, whatever the number of attempts: its id is kept there. Each attempt first tells what
W&B does not have yet of the attempts before it, from events.jsonl: online the server says how far it is; an offline
folder holds the whole run, so that the newest one alone is enough for `wandb sync`. Whatever fails here, the run goes
on and says that tracking is degraded; events.jsonl has everything. Knows nothing about training.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from contracts import events
from contracts.events import EVENT, Event
from contracts.rundir import RunDir
from contracts.train import TrainConfig
from trainer.files import write_atomically
from trainer.report import Report
from trainer.wandb_server import choose_mode, server_url

INIT_S = 20.0
FINISH_S = 30.0
SLOW_BYTES_PER_S = 1e6
"""Of a line over which weights are uploaded."""
LEAVE_S = 15.0
"""That W&B's own process takes to end when its server is gone."""
ID_FILE = "run-id"

log = logging.getLogger(__name__)


class Tracking:
    """The run on W&B, for this attempt; call it with events, then ``finish`` it.

    Args:
        step: that this attempt goes on from.
        facts: what else belongs into the run's configuration: names and versions, never a secret.
    """

    def __init__(
        self, config: TrainConfig, run_dir: RunDir, report: Report, *, step: int, facts: Mapping[str, Any]
    ) -> None:
        self._report = report
        self._run_dir = run_dir
        self._run: Any = None
        self._takes_values = True
        self._step = step
        self._known = -1
        self._online = False
        self.where = "off"
        mode, reason = choose_mode(config.tracking.enabled)
        if mode == "off":
            self._say("off", reason)
            return
        self._online = mode == "online"
        with self._shielding("W&B did not start; the reason is in trainer.log"):
            run = _start(config, run_dir, facts, online=self._online)
            self.where = run.url if self._online else str(Path(run.dir).parent)
            self._known = _last_step(run) if self._online else -1
            self._run = run
        if self._run is None:
            return
        self._say(mode, f"{reason}; writing to {self.where}" if reason else self.where)
        with self._shielding("W&B lacks what earlier attempts said; events.jsonl has it"):
            for said in _before(run_dir.events, step):
                self(said)

    def __call__(self, event: Event) -> None:
        self._step = max(self._step, event.step)
        # What a server was told before a crash is done again, bit for bit, and not told again.
        if event.step < self._known or (event.step == self._known and isinstance(event, events.StepDone)):
            return
        if self._run is None or not self._takes_values or not (values := _values(event, self._run_dir.previews)):
            return
        self._takes_values = False
        with self._shielding("W&B stopped taking values; events.jsonl has them all"):
            self._run.log({"train/step": event.step, **values})
            self._takes_values = True

    @property
    def closing_s(self) -> float:
        """The longest that ``finish`` takes."""
        return FINISH_S + LEAVE_S if self._online else 0.0

    def upload(self, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Give W&B the weights themselves, as the next version of the artifact named after them.

        Waits for a server as long as a slow line takes: an upload that ``finish`` cut off would be lost.
        """
        if self._run is None or not files:
            return
        with self._shielding("W&B did not take the weights; they are in the run directory"):
            artifact = wandb.Artifact(files[0].stem, type="model", metadata=dict(metadata))
            for file in files:
                # Neither copied to the user's own cache nor to be changed while it is sent.
                artifact.add_file(str(file), policy="immutable", skip_cache=True)
            logged = self._run.log_artifact(artifact)
            if self._online:
                logged.wait(timeout=FINISH_S + sum(file.stat().st_size for file in files) / SLOW_BYTES_PER_S)

    def finish(self, *, failed: bool) -> None:
        """Close the W&B run; waits at most FINISH_S and leaves the rest on disk for `wandb sync`."""
        run, self._run = self._run, None
        if run is None:
            return
        folder = Path(run.dir).parent
        with self._shielding(f"W&B did not take everything in time; `wandb sync {folder}` sends the rest"):
            run.finish(exit_code=int(failed))
        with self._shielding(f"W&B did not leave in good order; `wandb sync {folder}` sends what is missing"):
            # Its own process may still be writing the file: whoever reads it next wants all of it.
            wandb.teardown(exit_code=int(failed))

    @contextmanager
    def _shielding(self, words: str) -> Iterator[None]:
        """Keep what W&B raises from the run; ``words`` say what it means for whoever follows it."""
        try:
            yield
        except Exception:  # noqa: BLE001 - a tracker must never stop a run, whatever it raises
            log.warning("%s", words, exc_info=True)
            self._say("degraded", words)

    def _say(self, mode: Any, where: str) -> None:
        self._report(events.Tracking(at=time.time(), step=self._step, mode=mode, where=where))


def _start(config: TrainConfig, run_dir: RunDir, facts: Mapping[str, Any], *, online: bool) -> Any:
    run_dir.wandb.mkdir(exist_ok=True)
    settings = wandb.Settings(
        base_url=server_url(),
        init_timeout=INIT_S,
        finish_timeout=FINISH_S,
        finish_timeout_raises=True,
        console="off",
        silent=True,
        disable_git=True,
        save_code=False,
        # The machine's name, its user and the command line are nobody's business but ours.
        x_disable_meta=True,
    )
    tracking = config.tracking
    run = wandb.init(
        id=_stable_id(run_dir),
        # Offline there is nobody to ask: the folder begins with all that was said before.
        resume="allow" if online else None,
        project=tracking.project,
        entity=tracking.entity,
        group=tracking.group or run_dir.root.resolve().name,
        tags=list(tracking.tags),
        name=config.output_name,
        config=config.model_dump(mode="json") | dict(facts),
        dir=str(run_dir.root),
        mode="online" if online else "offline",
        reinit="create_new",
        settings=settings,
    )
    run.define_metric("*", step_metric="train/step")
    run.define_metric("held_out/loss", step_metric="train/step", summary="min")
    return run


def _stable_id(run_dir: RunDir) -> str:
    """The W&B id of this run directory, made up once."""
    file = run_dir.wandb / ID_FILE
    if not file.exists():
        write_atomically(file, secrets.token_hex(6))
    return file.read_text(encoding="utf-8")


def _last_step(run: Any) -> int:
    """How far the server has heard of this run; -1 when it is new."""
    found = run.summary.get("train/step") if run.resumed else None
    return int(found) if isinstance(found, int | float) else -1


def _before(path: Path, step: int) -> Iterator[Event]:
    """What attempts before this one have said of the steps that it goes on from; of a step done twice the last."""
    if not path.exists() or not step:
        return
    latest: dict[tuple[int, str, str], Event] = {}
    with path.open("rb") as file:
        for line in file:
            said = EVENT.validate_json(line)
            if said.step <= step and isinstance(said, events.StepDone | events.HeldOut | events.Preview):
                latest[said.step, said.type, said.file if isinstance(said, events.Preview) else ""] = said
    yield from sorted(latest.values(), key=lambda said: said.step)


def _values(event: Event, previews: Path) -> dict[str, Any]:
    match event:
        case events.StepDone():
            return {
                "train/loss": event.loss,
                "train/loss_smooth": event.loss_smooth,
                "train/learning_rate": event.learning_rate,
                **{f"train/learning_rate/{name}": rate for name, rate in event.learning_rates.items()},
                "train/grad_norm": event.grad_norm,
                "train/adapter_norm": event.adapter_norm,
                "train/images_per_s": event.images_per_s,
            }
        case events.HeldOut():
            return {"held_out/loss": event.loss}
        case events.Preview() if (previews / event.file).exists():
            name = Path(event.file).stem.rsplit("-", 1)[-1]
            return {f"preview/{name}": wandb.Image(str(previews / event.file), caption=event.prompt)}
    return {}
