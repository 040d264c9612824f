"""Weights & Biases as one sink of the run's events: offline unless there is a key, bounded in time, never fatal.

Whatever fails here, the run goes on and says that tracking is degraded; events.jsonl has everything. Knows nothing
about training.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb

from contracts import events
from contracts.events import Event
from contracts.rundir import RunDir
from contracts.train import TrainConfig
from trainer.report import Report

REACHABLE_S = 2.0
INIT_S = 20.0
FINISH_S = 30.0
DEFAULT_URL = "https://api.wandb.ai"
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")

log = logging.getLogger(__name__)


class Tracking:
    """One W&B run for this attempt; call it with events, then ``finish`` it."""

    def __init__(self, config: TrainConfig, run_dir: RunDir, report: Report, *, step: int) -> None:
        self._report = report
        self._previews = run_dir.previews
        self._run: Any = None
        self._step = step
        self.where = "off"
        mode, reason = _choose_mode(config.tracking.enabled)
        if mode == "off":
            self._say("off", reason)
            return
        try:
            self._run = _start(config, run_dir, "offline" if mode == "degraded" else mode)
            self.where = self._run.url if mode == "online" else str(Path(self._run.dir).parent)
        except Exception:  # noqa: BLE001 - a tracker must never stop a run, whatever it raises
            log.warning("W&B did not start", exc_info=True)
            self._say("degraded", "W&B did not start; the reason is in trainer.log")
            return
        self._say(mode, f"{reason}; writing to {self.where}" if reason else self.where)

    def __call__(self, event: Event) -> None:
        if self._run is None:
            return
        self._step = max(self._step, event.step)
        values = _values(event, self._previews)
        if not values:
            return
        try:
            self._run.log({"train/step": event.step, **values})
        except Exception:  # noqa: BLE001 - see above
            log.warning("W&B stopped taking values", exc_info=True)
            self._run = None
            self._say("degraded", "W&B stopped taking values; events.jsonl has them all")

    def finish(self, *, failed: bool) -> None:
        """Close the W&B run; waits at most FINISH_S and leaves the rest on disk for `wandb sync`."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=int(failed))
        except Exception:  # noqa: BLE001 - see above
            log.warning("W&B did not finish", exc_info=True)
        self._run = None

    def _say(self, mode: Any, where: str) -> None:
        self._report(events.Tracking(at=time.time(), step=self._step, mode=mode, where=where))


def _choose_mode(enabled: bool) -> tuple[str, str]:
    """Decide before the first init, as a failed online init cannot be retried offline in the same process."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if not enabled or asked in ("disabled", "off"):
        return "off", "switched off by WANDB_MODE" if enabled else "switched off by tracking.enabled"
    if asked == "offline" or not os.environ.get("WANDB_API_KEY"):
        return "offline", ""
    url = os.environ.get("WANDB_BASE_URL", DEFAULT_URL)
    if not _reachable(url):
        return "degraded", "the W&B server does not answer, so the run is kept offline"
    return "online", ""


def _reachable(url: str) -> bool:
    if any(os.environ.get(name) for name in PROXIES):
        return True  # only the proxy can tell
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=REACHABLE_S):
            return True
    except OSError:
        return False


def _start(config: TrainConfig, run_dir: RunDir, mode: str) -> Any:
    run_dir.wandb.mkdir(exist_ok=True)
    settings = wandb.Settings(
        init_timeout=INIT_S, finish_timeout=FINISH_S, console="off", silent=True, disable_git=True, save_code=False
    )
    tracking = config.tracking
    run = wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        # One W&B run an attempt, grouped: offline runs cannot be resumed, and re-logged steps would be dropped.
        group=tracking.group or run_dir.root.resolve().name,
        tags=list(tracking.tags),
        name=config.output_name,
        config=config.model_dump(mode="json"),
        dir=str(run_dir.root),
        mode=mode,  # type: ignore[arg-type]  # a literal there, chosen above here
        reinit="create_new",
        settings=settings,
    )
    run.define_metric("*", step_metric="train/step")
    return run


def _values(event: Event, previews: Path) -> dict[str, Any]:
    match event:
        case events.StepDone():
            return {
                "train/loss": event.loss,
                "train/loss_smooth": event.loss_smooth,
                "train/learning_rate": event.learning_rate,
                "train/grad_norm": event.grad_norm,
                "train/images_per_s": event.images_per_s,
            } | {f"train/learning_rate/{group}": rate for group, rate in event.learning_rates.items()}
        case events.HeldOut():
            return {"held_out/loss": event.loss}
        case events.Preview():
            name = Path(event.file).stem.rsplit("-", 1)[-1]
            return {f"preview/{name}": wandb.Image(str(previews / event.file), caption=event.prompt)}
    return {}
