"""An API over a real SQLite file and a real blob store in a temporary home, asked as this machine would."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.deps import Parts
from api.settings import ApiSettings
from catalog import jobs
from catalog.bases import service as bases
from catalog.blobs import image_key, make_key
from catalog.datasets import ingest
from catalog.datasets import service as datasets
from catalog.keys import service as keys
from catalog.registry import service as registry
from catalog.runs import progress
from contracts.adapter import AdapterHeader
from contracts.base import BaseDescription, Family
from contracts.events import Event
from contracts.rundir import Completed
from tests.databases import new_home
from tests.profiles import small_profile

RECIPES = {
    "quick": "# A short run.\n# Two lines.\npaths:\n  base_dir: somewhere\nsteps: 20\ntrigger_word: patinastyle\n",
    "wide": "steps: 40\nlora:\n  rank: 32\n",
}


@pytest.fixture
def settings(tmp_path: Path) -> ApiSettings:
    home = new_home(tmp_path / "home")
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name, text in RECIPES.items():
        (recipes / f"{name}.yaml").write_text(text)
    return ApiSettings(home=home, recipes=recipes, poll_s=0.02, stream_ping_s=0.2)


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


class Make:
    """Fills the catalog with what a test takes for granted, acting as the workers would."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def base(self, name: str = "emoji", identity: str = "a" * 64, native_px: int = 64) -> str:
        description = BaseDescription(
            family=Family.SDXL,
            identity=identity,
            vae_identity="b" * 64,
            native_px=native_px,
            prediction_type="epsilon",
            latent_channels=4,
            vae_factor=8,
            profile=small_profile(),
        )
        with self.parts.database.session() as session:
            bases.add(session, name, "/secret/place", "MIT", description)
        return name

    def frozen(self, name: str = "style", images: int = 4, owner: str = "local") -> str:
        """A dataset of 64 px images, read and frozen; image k has the identity of k in hexadecimal."""
        with self.parts.database.session() as session:
            dataset = datasets.create(session, owner, name).id
            for n in range(images):
                datasets.offer_upload(session, owner, dataset, f"{n}.png", f"uploads/{owner}/{n}", 10)
        self.read_uploads()
        with self.parts.database.session() as session:
            datasets.freeze(session, owner, dataset)
        return dataset

    def read_uploads(self) -> None:
        """Read every pending file without decoding."""
        claim = self.claim("light")
        with self.parts.database.session() as session:
            for n, row in enumerate(ingest.pending_files(session, claim)):
                if row.kind != "image":
                    ingest.record_caption(session, claim, row.id, "a caption")
                    continue
                identity = f"{n:064x}"
                key = image_key(claim.owner, identity)
                self.parts.blobs.put_bytes(key, b"dataset image %d" % n)
                ingest.record_image(session, claim, row.id, ingest.DecodedImage(identity, 64, 64, key))
            ingest.finish(session, claim)

    def claim(self, queue: str) -> jobs.Claim:
        with self.parts.database.session() as session:
            (claim,) = jobs.claim(session, queue, "test-worker", 60)
        return claim

    def begin(self) -> jobs.Claim:
        """The train worker takes the next run and prepares it."""
        claim = self.claim("train")
        with self.parts.database.session() as session:
            progress.begin(session, claim, "cpu", keeps_directory=False)
        return claim

    def tell(self, claim: jobs.Claim, *said: Event, offset: int) -> None:
        """What the trainer said, as the train worker copies it."""
        with self.parts.database.session() as session:
            progress.record_events(session, claim, said, offset)

    def blob(self, *key: str, content: bytes) -> tuple[str, str]:
        """Store a blob; its key and hash."""
        name = make_key(*key)
        self.parts.blobs.put_bytes(name, content)
        return name, hashlib.sha256(content).hexdigest()

    def publish(self, claim: jobs.Claim, content: bytes = b"tensors", name: str = "lora") -> None:
        """Register weights as the run's result; it has succeeded."""
        key, sha256 = self.blob("weights", claim.subject_id, "final.safetensors", content=content)
        header = AdapterHeader(
            name=name,
            method="lora",
            base_identity="a" * 64,
            config_digest="c" * 64,
            dataset_version="d" * 64,
            trigger_word="patinastyle",
            rank=16,
            alpha=16,
            targets="attn-ff",
            resolution_px=64,
            prediction_type="epsilon",
            steps=20,
            created="2026-01-01T00:00:00Z",
        )
        outcome = Completed(
            step=20,
            train_seconds=10,
            loss_first=0.2,
            loss_last=0.1,
            held_out_loss_before=0.3,
            held_out_loss_after=0.2,
            tracking="off",
        )
        with self.parts.database.session() as session:
            made = registry.Publication(header, key, sha256, len(content), {"held_out_loss": 0.2})
            registry.publish(session, claim, made)
            progress.complete(session, claim, outcome)


@pytest.fixture
def make(parts: Parts) -> Make:
    return Make(parts)
