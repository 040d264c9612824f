from __future__ import annotations

from pathlib import Path

import pytest

from contracts.failures import InvalidInput
from patina.settings import PREFIX, Settings, environment_of, read_settings


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


class TestReadSettings:
    def test_everything_has_an_embedded_default(self) -> None:
        settings = read_settings()
        assert settings.folder == Path.cwd() / ".patina"
        assert settings.broker_url == "embedded"
        assert settings.host == "127.0.0.1"

    def test_the_command_line_wins_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATINA_PORT", "9001")
        assert read_settings(port=None).port == 9001
        assert read_settings(port=9002).port == 9002

    def test_an_empty_variable_is_no_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATINA_PORT", "")
        assert read_settings().port == 8470

    def test_all_wrong_variables_are_named_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATINA_PORT", "many")
        monkeypatch.setenv("PATINA_SLOTS", "0")
        monkeypatch.setenv("PATINA_API_URL", "localhost")
        with pytest.raises(InvalidInput) as caught:
            read_settings()
        assert {e.pointer for e in caught.value.errors} == {"/PATINA_PORT", "/PATINA_SLOTS", "/PATINA_API_URL"}

    def test_heartbeats_too_far_apart_for_the_lease_are_refused(self) -> None:
        assert read_settings(lease_s=30, heartbeat_s=10).heartbeat_s == 10
        with pytest.raises(InvalidInput, match="third"):
            read_settings(lease_s=30, heartbeat_s=11)


class TestEnvironmentOf:
    def test_children_get_absolute_places_whatever_their_folder_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        variables = environment_of(read_settings(home="here", cache="there"))
        assert variables["PATINA_HOME"] == str(tmp_path / "here")
        assert variables["PATINA_CACHE"] == str(tmp_path / "there")

    def test_it_reads_back_as_the_same_settings(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        settings = read_settings(home=tmp_path, port=1234, slots=2, lease_s=90.5, storage_url="s3://b/p")
        for name, value in environment_of(settings).items():
            monkeypatch.setenv(name, value)
        assert read_settings() == settings

    def test_the_clients_key_is_not_handed_to_the_server(self) -> None:
        assert "PATINA_API_KEY" not in environment_of(read_settings(api_key="patina_x_y"))


class TestDocumentation:
    def test_every_setting_is_described(self) -> None:
        text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
        assert len(Settings.model_fields) >= 12
        assert [name for name in Settings.model_fields if f"`{PREFIX}{name.upper()}`" not in text] == []
