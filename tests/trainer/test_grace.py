"""What the trainer says of the time it needs to end: a step, a save and closing, as measured."""

from __future__ import annotations

from pathlib import Path

from contracts.rundir import Grace, RunDir
from trainer.grace import ENDING_S, MARGIN, GraceKeeper


def said(run_dir: RunDir) -> Grace:
    return Grace.model_validate_json(run_dir.grace.read_bytes())


class TestGraceKeeper:
    def test_says_nothing_before_a_step_was_measured(self, tmp_path: Path) -> None:
        keeper = GraceKeeper(RunDir(tmp_path), checkpoint_bytes=10**9)
        keeper.save_took(3)
        assert not RunDir(tmp_path).grace.exists()

    def test_assumes_a_slow_disk_until_a_save_was_measured(self, tmp_path: Path) -> None:
        keeper = GraceKeeper(RunDir(tmp_path), checkpoint_bytes=10**9)
        keeper.step_took(2)
        assert said(RunDir(tmp_path)).grace_s == MARGIN * (2 + 10) + ENDING_S
        keeper.save_took(1)
        assert said(RunDir(tmp_path)).grace_s == MARGIN * (2 + 1) + ENDING_S

    def test_counts_what_a_full_fine_tune_writes_at_its_end_at_the_speed_of_a_save(self, tmp_path: Path) -> None:
        keeper = GraceKeeper(RunDir(tmp_path), checkpoint_bytes=10**9, exports_bytes=7 * 10**9)
        keeper.step_took(2)
        keeper.save_took(1)
        assert said(RunDir(tmp_path)).exports_s == 7
        assert said(RunDir(tmp_path)).grace_s == MARGIN * (2 + 1 + 7) + ENDING_S

    def test_grows_at_once_with_a_slow_step_and_is_not_rewritten_for_nothing(self, tmp_path: Path) -> None:
        keeper = GraceKeeper(RunDir(tmp_path), checkpoint_bytes=0)
        keeper.closing_takes(30)
        keeper.step_took(1)
        written = RunDir(tmp_path).grace.stat().st_ino
        keeper.step_took(1.1)
        assert RunDir(tmp_path).grace.stat().st_ino == written
        keeper.step_took(100)
        assert said(RunDir(tmp_path)).grace_s == MARGIN * 100 + ENDING_S + 30

    def test_a_finished_run_has_said_it(self, finished: Path) -> None:
        grace = said(RunDir(finished))
        assert grace.grace_s > grace.step_s + grace.save_s > 0
