"""What `patina demo` refuses before it touches anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.failures import FailureCode, PatinaError
from patina import home
from patina.demo.command import demo


class TestFolder:
    def test_another_demo_s_home_is_not_taken_from_under_it(self, tmp_path: Path) -> None:
        home.prepare(tmp_path / "home")
        (tmp_path / "home" / "patina.db").touch()
        with home.held(tmp_path / "home", "http://127.0.0.1:1"), pytest.raises(PatinaError) as refused:
            demo(tmp_path)
        assert refused.value.code is FailureCode.ALREADY_RUNNING
        assert (tmp_path / "home" / "patina.db").exists()
