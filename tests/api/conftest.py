"""An API over a real SQLite file and a real blob store in a temporary home, asked as this machine would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from starlette.testclient import TestClient

from api.app import create_app
from api.deps import Parts
from api.settings import ApiSettings
from catalog.keys import service as keys

RECIPES = {
    "quick": "# A short run.\n# Two lines.\npaths:\n  base_dir: somewhere\nsteps: 20\ntrigger_word: patinastyle\n",
    "wide": "steps: 40\nlora:\n  rank: 32\n",
}


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Structlog's own default renders local variables into traces, which takes seconds each."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.dev.ConsoleRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def settings(tmp_path: Path) -> ApiSettings:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name, text in RECIPES.items():
        (recipes / f"{name}.yaml").write_text(text)
    return ApiSettings(home=tmp_path / "home", recipes=recipes, poll_s=0.02, stream_ping_s=0.2)


@pytest.fixture
def client(settings: ApiSettings) -> Iterator[TestClient]:
    """The keyless owner ``local``."""
    with TestClient(create_app(settings), base_url="http://localhost:8470", client=("127.0.0.1", 1)) as client:
        yield client


@pytest.fixture
def parts(client: TestClient) -> Parts:
    """What the application works with, for tests to act as workers."""
    found: Parts = client.app.state.parts  # type: ignore[attr-defined]
    return found


@pytest.fixture
def as_owner(parts: Parts) -> Callable[[str], dict[str, str]]:
    """Headers of another owner's key."""

    def make(owner: str) -> dict[str, str]:
        with parts.database.session() as session:
            return {"authorization": f"Bearer {keys.create(session, owner, 'test').text}"}

    return make
