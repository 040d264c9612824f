"""Configurations that must end in the same weights: bit for bit, or within rounding where sums are regrouped.

Each runs the real command line. `finished` is the run the others are held against.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from contracts import events
from contracts.rundir import Completed, Failed, RunDir, Stopped
from tests.trainer.tiny import (
    command,
    environment,
    events_of,
    kill_when,
    launch,
    losses,
    make_recipe,
    outcome_of,
    same,
    stop_after,
    train,
    weights_of,
)

QUIET = {"preview__prompts": [], "held_out__every_steps": None}


class TestBitForBit:
    def test_encoding_anew_at_each_use_without_previews_equals_the_cached_run(
        self, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **QUIET)
        assert train(recipe, tmp_path / "run", cache_dir, "--no-cache") == 0
        assert same(weights_of(tmp_path / "run"), weights_of(finished))

    @pytest.mark.slow
    def test_two_gloo_ranks_equal_two_accumulated_batches(
        self, finished: Path, base_dir: Path, pictures: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, gradient_accumulation_steps=1)
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        cold = tmp_path / "cache"
        done = launch(
            [*words, *command(recipe, tmp_path / "run", cold)],
            environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (started,) = (event for event in events_of(tmp_path / "run") if isinstance(event, events.Started))
        assert started.processes == 2
        assert same(weights_of(tmp_path / "run"), weights_of(finished))
        assert losses(tmp_path / "run") == losses(finished)
        # The schedule is stepped once per optimiser step, whatever the process count.
        assert rates(tmp_path / "run") == rates(finished)
        one, two = outcome_of(finished), outcome_of(tmp_path / "run")
        assert isinstance(one, Completed)
        assert isinstance(two, Completed)
        assert one.held_out_loss_after == two.held_out_loss_after

    @pytest.mark.slow
    def test_two_ranks_asked_to_stop_agree_and_go_on(
        self, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        run_dir = RunDir(tmp_path / "run")
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, gradient_accumulation_steps=1)
        ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        words = [*ranks, *command(recipe, run_dir.root, cache_dir)]
        env = environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo")
        agent = subprocess.Popen(words, env=env)
        wait_for_step(agent, run_dir, 0)
        agent.terminate()
        agent.wait(timeout=120)
        stopped = outcome_of(run_dir.root)
        assert isinstance(stopped, Stopped)
        assert 0 < stopped.step < 6
        subprocess.run(words, env=env, check=True, timeout=240)
        assert same(weights_of(run_dir.root), weights_of(finished))

    @pytest.mark.slow
    def test_killed_in_the_middle_of_a_save_and_started_again(
        self, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        run_dir = RunDir(tmp_path / "run")
        assert kill_when("saving", recipe, run_dir, cache_dir)
        assert list(run_dir.checkpoints.glob(".tmp-*")), "it was to be killed while it wrote"
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert not list(run_dir.checkpoints.glob(".tmp-*"))
        assert same(weights_of(run_dir.root), weights_of(finished))

    @pytest.mark.parametrize("how", ["control file", "SIGTERM", pytest.param("Ctrl-C", marks=pytest.mark.slow)])
    def test_stopped_on_request_and_started_again(
        self,
        how: str,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run_dir = RunDir(tmp_path / "run")
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **QUIET)
        stop_after(3, run_dir.root, monkeypatch, how)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=3)
        assert not run_dir.control("stop").exists()
        monkeypatch.undo()
        assert train(recipe, run_dir.root, cache_dir) == 0
        started = [event for event in events_of(run_dir.root) if isinstance(event, events.Started)]
        assert [(event.first_step, event.exact) for event in started] == [(0, True), (3, True)]
        assert same(weights_of(run_dir.root), weights_of(finished))

    def test_going_on_from_the_checkpoint_before_a_damaged_one(
        self, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        run_dir = RunDir(tmp_path / "run")
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **QUIET)
        assert train(recipe, run_dir.root, cache_dir) == 0
        run_dir.manifest.unlink()
        newest = max(run_dir.checkpoints.iterdir()) / "weights.safetensors"
        newest.write_bytes(newest.read_bytes()[:-7])
        assert train(recipe, run_dir.root, cache_dir) == 0
        warned = [event.message for event in events_of(run_dir.root) if isinstance(event, events.Warned)]
        assert any("step-00000006 is not used" in message for message in warned)
        assert same(weights_of(run_dir.root), weights_of(finished))


class TestWithinRounding:
    @pytest.mark.slow
    @pytest.mark.parametrize(("prediction", "steps"), [("epsilon", 8), ("v_prediction", 30)])
    def test_one_batch_of_four_and_four_of_one_after_many_steps(
        self, prediction: str, steps: int, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        found = []
        for batch, accumulated in ((4, 1), (1, 4)):
            run = tmp_path / f"run-{batch}"
            recipe = make_recipe(
                tmp_path / f"{batch}.yaml", base_dir, pictures, steps=steps,
                batch_size=batch, gradient_accumulation_steps=accumulated, loss__prediction_type=prediction,
                checkpoint__every_steps=None, optimizer__learning_rate=1e-3, **QUIET,
            )  # fmt: skip
            assert train(recipe, run, cache_dir) == 0
            found.append((torch.cat([t.flatten() for t in weights_of(run).values()]), losses(run)))
        (first, first_losses), (second, second_losses) = found
        assert torch.linalg.vector_norm(first - second) / torch.linalg.vector_norm(first) < 1e-4
        # Differences have no side: a drift would show in their mean.
        assert abs(sum(a - b for a, b in zip(first_losses, second_losses, strict=True))) / steps < 1e-5
        assert first_losses == pytest.approx(second_losses, rel=1e-4)


class TestResumingElsewhere:
    @pytest.fixture
    def stopped(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Path, RunDir]:
        """A recipe and its run, stopped after the first of three steps."""
        run_dir = RunDir(tmp_path / "run")
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=3, **QUIET)
        stop_after(1, run_dir.root, monkeypatch)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        monkeypatch.undo()
        return recipe, run_dir

    def test_says_that_it_is_not_exact(self, stopped: tuple[Path, RunDir], cache_dir: Path) -> None:
        recipe, run_dir = stopped
        torch.set_num_threads(2)
        try:
            assert train(recipe, run_dir.root, cache_dir) == 0
        finally:
            torch.set_num_threads(1)
        *_, started = (event for event in events_of(run_dir.root) if isinstance(event, events.Started))
        assert (started.first_step, started.exact) == (1, False)
        assert "going on from step 1, but not bit for bit: threads was 1, is 2" in warnings_of(run_dir)

    def test_on_another_processor_says_which_it_was(
        self, stopped: tuple[Path, RunDir], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe, run_dir = stopped
        before = torch.backends.cpu.get_cpu_capability()
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
        assert train(recipe, run_dir.root, cache_dir) == 0
        *_, started = (event for event in events_of(run_dir.root) if isinstance(event, events.Started))
        assert (started.first_step, started.exact) == (1, False)
        assert any(f"cpu_capability was {before}, is OTHER" in words for words in warnings_of(run_dir))

    def test_refuses_what_would_make_it_wrong_and_names_each(
        self, stopped: tuple[Path, RunDir], cache_dir: Path
    ) -> None:
        recipe, run_dir = stopped
        assert train(recipe, run_dir.root, cache_dir, "seed=4", "lora.alpha=2", "preview.sampling_steps=7") == 1
        outcome = outcome_of(run_dir.root)
        assert isinstance(outcome, Failed)
        assert outcome.code == "checkpoint_mismatch"
        assert "seed was 3, is 4; lora.alpha was 8.0, is 2.0" in outcome.message
        assert "sampling_steps" not in outcome.message


class TestAccelerateLaunch:
    @pytest.mark.slow
    def test_trains_the_same_weights(
        self, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **QUIET)
        configured = Path(__file__).parents[2] / "configs" / "accelerate" / "cpu.yaml"
        words = ["-m", "accelerate.commands.launch", "--config_file", str(configured)]
        done = launch([*words, *command(recipe, tmp_path / "run", cache_dir)], environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert same(weights_of(tmp_path / "run"), weights_of(finished))


def rates(run_dir: Path) -> list[float]:
    return [event.learning_rate for event in events_of(run_dir) if isinstance(event, events.StepDone)]


def warnings_of(run_dir: RunDir) -> list[str]:
    return [event.message for event in events_of(run_dir.root) if isinstance(event, events.Warned)]


def wait_for_step(child: subprocess.Popen[bytes], run_dir: RunDir, before: int) -> None:
    """Until the events have more than ``before`` steps, or the process has ended."""
    while child.poll() is None:
        if run_dir.events.exists() and run_dir.events.read_text().count(STEP) > before:
            return
        time.sleep(0.01)


STEP = '"type":"step"'
