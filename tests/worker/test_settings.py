"""A worker's settings and what follows from them."""

from __future__ import annotations

import io
import zipfile
from ipaddress import ip_network
from pathlib import Path

import pytest

from worker.archives import NotAnArchive, members
from worker.settings import WorkerSettings, nvidia_devices


class TestDefaults:
    def test_everything_is_under_the_home(self, home: Path) -> None:
        settings = WorkerSettings()
        assert settings.database == f"sqlite:///{home}/patina.db"
        assert settings.storage == f"file://{home}/blobs"
        assert settings.cache_dir == home / "cache"

    def test_a_heartbeat_has_two_more_chances_before_the_lease_is_lost(self) -> None:
        assert WorkerSettings(lease_s=60).heartbeat_every_s == 20
        assert WorkerSettings(lease_s=60, heartbeat_s=7).heartbeat_every_s == 7
        with pytest.raises(ValueError, match="a third of PATINA_LEASE_S"):
            WorkerSettings(lease_s=60, heartbeat_s=30)


class TestDeviceMemory:
    def test_is_said_as_a_size_and_is_none_unless_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert WorkerSettings().device_memory is None
        monkeypatch.setenv("PATINA_DEVICE_MEMORY", "12GB")
        assert WorkerSettings().device_memory == 12 * 2**30
        monkeypatch.setenv("PATINA_DEVICE_MEMORY", "plenty")
        with pytest.raises(ValueError, match="no amount of memory"):
            WorkerSettings()


class TestFetching:
    def test_is_from_public_machines_and_web_ports_unless_others_are_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = WorkerSettings().fetch_limits
        assert (limits.allowed, limits.ports) == ((), {80, 443})
        monkeypatch.setenv("PATINA_FETCH_ALLOWED_NETWORKS", "10.0.5.0/24, fd00:5::/64,")
        monkeypatch.setenv("PATINA_FETCH_PORTS", "443,8443")
        limits = WorkerSettings().fetch_limits
        assert limits.allowed == (ip_network("10.0.5.0/24"), ip_network("fd00:5::/64"))
        assert limits.ports == {443, 8443}
        monkeypatch.setenv("PATINA_FETCH_ALLOWED_NETWORKS", "10.0.5.1/24")
        with pytest.raises(ValueError, match="fetch_allowed_networks"):
            WorkerSettings()


class TestArchives:
    def test_limits_are_settings_and_a_refusal_names_the_one_it_met(self, monkeypatch: pytest.MonkeyPatch) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.png", b"x" * 700_000)
            archive.writestr("b.png", b"x" * 700_000)
        assert [member.refused for member in members(buffer, WorkerSettings().archive_limits)] == [None, None]
        for name, value in {"ENTRY_BYTES": 500_000, "TOTAL_BYTES": 1_000_000}.items():
            with monkeypatch.context() as environment:
                environment.setenv(f"PATINA_ARCHIVE_{name}", str(value))
                last = list(members(buffer, WorkerSettings().archive_limits))[-1]
            assert f"PATINA_ARCHIVE_{name}" in str(last.refused)
        monkeypatch.setenv("PATINA_ARCHIVE_ENTRIES", "1")
        with pytest.raises(NotAnArchive, match="PATINA_ARCHIVE_ENTRIES"):
            list(members(buffer, WorkerSettings().archive_limits))


class TestDevices:
    def test_gpus_are_counted_without_cuda(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
            (tmp_path / name).touch()
        assert nvidia_devices(tmp_path) == ("cuda:0", "cuda:1")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert nvidia_devices(tmp_path) == ()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-uuid")
        assert nvidia_devices(tmp_path) == ("cuda:0", "cuda:1")

    def test_without_a_gpu_there_is_one_slot_unless_more_are_wanted(self) -> None:
        assert WorkerSettings(device="cpu").devices == ("cpu",)
        assert WorkerSettings(device="cpu", slots=2).devices == ("cpu", "cpu")

    def test_slots_limit_the_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        monkeypatch.setenv("PATINA_DEVICE", "auto")
        assert WorkerSettings(slots=2).devices == ("cuda:0", "cuda:1")
