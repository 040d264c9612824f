"""Starting a trainer as `accelerate launch -m trainer`, asking it to stop, and making sure that it has.

Knows nothing about jobs, leases or the database: see train.py. Never imports what it launches.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog
import yaml

from contracts.rundir import Control, Grace, RunDir
from contracts.settings import waiting_threads
from worker.processes import end_marked, marks
from worker.settings import visible_gpus

ROOT = Path(__file__).parents[1]
SECRET_PREFIXES = ("PATINA_", "AWS_", "ACCELERATE_", "FSDP_", "CELERY_")
"""What a trainer need not know (where the database is), or must not obey (another run's launcher settings)."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Launch:
    """Everything a trainer is started with."""

    run_dir: RunDir
    base_dir: Path
    datasets: tuple[tuple[Path, float], ...]
    """Where the versions that feed the run lie, and their weights."""
    cache_dir: Path
    home: Path
    attempt: str
    """"JOB.FENCE", carried by every process of the attempt."""
    devices: tuple[str, ...]
    """Leased devices as torch names them: cuda:N, or cpu."""
    threads: int
    base_identity: str
    """What the base was registered as."""
    init_weights: Path | None = None
    """The weights file that training starts from."""
    memory_bytes: int | None = None
    """What the run must fit on each device; None is what the GPU has."""


@dataclass(frozen=True)
class Trainer:
    """A started trainer."""

    launch: Launch
    process: subprocess.Popen[bytes]

    def running(self) -> bool:
        """Whether the launcher still runs."""
        return self.process.poll() is None

    def ask(self, name: Control) -> None:
        """Ask for something at the next step; stop is a checkpoint and an end."""
        request = self.launch.run_dir.control(name)
        request.parent.mkdir(parents=True, exist_ok=True)
        request.touch()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False when it did not come in time."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def grace_s(run_dir: RunDir, at_least_s: float) -> float:
    """How long to wait for the trainer of this directory to end once it is asked to: what it says itself, or more."""
    try:
        return max(at_least_s, Grace.model_validate_json(run_dir.grace.read_bytes()).grace_s)
    except (OSError, ValueError):  # it has not done a step yet
        return at_least_s


def start(launch: Launch) -> Trainer:
    """Start the trainer in a session of its own, its words going to trainer.log."""
    (launch.run_dir.root / "accelerate.yaml").write_text(yaml.safe_dump(accelerate_config(launch)))
    launch.run_dir.control("stop").unlink(missing_ok=True)
    launch.cache_dir.mkdir(parents=True, exist_ok=True)
    with launch.run_dir.log.open("ab") as output:
        process = subprocess.Popen(
            command(launch),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(launch),
            cwd=ROOT,
            start_new_session=True,
        )
    log.info("trainer.started", attempt=launch.attempt, pid=process.pid, run_dir=str(launch.run_dir.root))
    return Trainer(launch, process)


def end(trainer: Trainer, grace_s: float) -> None:
    """End every process of the attempt: TERM to its group, KILL after ``grace_s``, then whoever carries its mark."""
    if trainer.running():
        _signal_group(trainer, signal.SIGTERM)
        if not trainer.wait(grace_s):
            log.warning("trainer.killed", attempt=trainer.launch.attempt)
            _signal_group(trainer, signal.SIGKILL)
            trainer.process.wait()
    end_marked(trainer.launch.home, lambda attempt: attempt == trainer.launch.attempt, grace_s)


def kill(trainer: Trainer) -> None:
    """End every process of the attempt at once: its lease is lost, and what it still writes belongs to nobody."""
    if trainer.running():
        _signal_group(trainer, signal.SIGKILL)
        trainer.process.wait()
    end_marked(trainer.launch.home, lambda attempt: attempt == trainer.launch.attempt, 0.0)


def command(launch: Launch) -> list[str]:
    """The command line; every launcher setting is said, so that nobody's own default can change a run."""
    gpus = _gpus(launch)
    processes = max(len(gpus), 1)
    where = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else [] if gpus else ["--cpu"]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(launch.run_dir.root / "accelerate.yaml")),
        *("--num_processes", str(processes), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", str(launch.threads)),
        *where,
        *("-m", "trainer", str(launch.run_dir.config)),
        *("--run-dir", str(launch.run_dir.root)),
        *("--base-dir", str(launch.base_dir)),
        *(word for folder, _ in launch.datasets for word in ("--dataset-dir", str(folder))),
        *(word for _, weight in launch.datasets for word in ("--dataset-weight", str(weight))),
        *("--cache-dir", str(launch.cache_dir)),
        *("--base-identity", launch.base_identity),
        *(("--init-weights", str(launch.init_weights)) if launch.init_weights else ()),
        *(("--memory", f"{launch.memory_bytes / 2**20}MiB") if launch.memory_bytes else ()),
    ]


def accelerate_config(launch: Launch) -> dict[str, object]:
    """The launcher's configuration file: with one of its own it never looks for the user's."""
    gpus = _gpus(launch)
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if len(gpus) > 1 else "NO",
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": max(len(gpus), 1),
        "use_cpu": not gpus,
    }


def environment(launch: Launch) -> dict[str, str]:
    """The trainer's environment: ours without what it need not know, with the marks it is found by."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SECRET_PREFIXES)}
    return {**waiting_threads(kept), **kept} | {
        **marks(launch.attempt, launch.home),
        "CUDA_VISIBLE_DEVICES": ",".join(_gpus(launch)),
        "OMP_NUM_THREADS": str(launch.threads),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _gpus(launch: Launch) -> list[str]:
    """The leased GPUs as CUDA_VISIBLE_DEVICES names them; torch counts only those it names."""
    gpus = visible_gpus()
    return [gpus[int(device.removeprefix("cuda:"))] for device in launch.devices if device.startswith("cuda:")]


def _signal_group(trainer: Trainer, number: signal.Signals) -> None:
    # The launcher leads its own session, so its group is its process id and never ours.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(trainer.process.pid, number)
