"""How a trainer is started: its command line, configuration and environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.rundir import ATTEMPT_VARIABLE, RunDir
from worker.launcher import Launch, accelerate_config, command, environment


def launch(*devices: str) -> Launch:
    root = Path("/srv/runs/run_1")
    fed = ((root / "dataset/1", 1.0), (root / "dataset/2", 0.5))
    return Launch(
        RunDir(root),
        Path("/base"),
        fed,
        Path("/cache"),
        Path("/srv"),
        "7.3",
        devices or ("cpu",),
        3,
        base_identity="abc",
    )


def option(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


class TestCommand:
    def test_is_accelerate_launch_with_every_setting_said(self) -> None:
        line = command(launch())
        assert line[1:3] == ["-m", "accelerate.commands.launch"]
        assert option(line, "--config_file") == "/srv/runs/run_1/accelerate.yaml"
        assert option(line, "--num_processes") == option(line, "--num_machines") == "1"
        assert option(line, "--mixed_precision") == option(line, "--dynamo_backend") == "no"
        assert option(line, "--num_cpu_threads_per_process") == "3"
        assert "--cpu" in line

    def test_gives_the_trainer_its_places(self) -> None:
        line = command(launch())
        assert line[line.index("trainer") + 1] == "/srv/runs/run_1/config.yaml"
        assert option(line, "--run-dir") == "/srv/runs/run_1"
        assert option(line, "--base-dir") == "/base"
        assert option(line, "--base-identity") == "abc"
        places = [line[place + 1] for place, word in enumerate(line) if word == "--dataset-dir"]
        assert places == ["/srv/runs/run_1/dataset/1", "/srv/runs/run_1/dataset/2"]
        assert [line[place + 1] for place, word in enumerate(line) if word == "--dataset-weight"] == ["1.0", "0.5"]
        assert option(line, "--cache-dir") == "/cache"

    def test_says_what_memory_the_run_must_fit_where_that_is_set(self) -> None:
        assert "--memory" not in command(launch())
        assert option(command(replace(launch(), memory_bytes=12 * 2**30)), "--memory") == "12288.0MiB"

    def test_several_gpus_are_several_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        line = command(launch("cuda:0", "cuda:2"))
        assert option(line, "--num_processes") == "2"
        assert "--multi_gpu" in line
        assert "--cpu" not in line


class TestAccelerateConfig:
    def test_says_the_same_as_the_command_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert accelerate_config(launch())["use_cpu"] is True
        assert accelerate_config(launch("cuda:0"))["use_cpu"] is False
        assert accelerate_config(launch("cuda:0"))["distributed_type"] == "NO"


class TestEnvironment:
    def test_carries_the_marks_of_its_attempt_and_home(self) -> None:
        found = environment(launch())
        assert (found[ATTEMPT_VARIABLE], found["PATINA_HOME"]) == ("7.3", "/srv")

    def test_has_no_address_or_key_of_ours_and_no_launcher_setting_of_somebody_else(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("PATINA_DATABASE_URL", "PATINA_API_KEY", "AWS_SECRET_ACCESS_KEY", "ACCELERATE_MIXED_PRECISION"):
            monkeypatch.setenv(name, "secret")
        monkeypatch.setenv("WANDB_API_KEY", "the tracker needs it")
        found = environment(launch())
        assert "secret" not in found.values()
        assert found["WANDB_API_KEY"] == "the tracker needs it"

    def test_lets_waiting_threads_give_their_core_away_unless_somebody_chose_otherwise(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        assert 0 < int(environment(launch())["GOMP_SPINCOUNT"]) < 100_000
        monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
        assert environment(launch())["OMP_WAIT_POLICY"] == "ACTIVE"
        assert "GOMP_SPINCOUNT" not in environment(launch())

    def test_shows_the_leased_devices_alone_by_their_own_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaa,GPU-bbb")
        assert environment(launch("cuda:1"))["CUDA_VISIBLE_DEVICES"] == "GPU-bbb"
        assert environment(launch("cpu"))["CUDA_VISIBLE_DEVICES"] == ""
