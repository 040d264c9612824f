"""Databases, real ones: SQLite files, and a Postgres of our own where its server is installed; and what fills them."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from catalog import jobs
from catalog.bases import service as bases
from catalog.bases.models import Base
from catalog.datasets import ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage
from catalog.db import Base as Table
from catalog.db import Database
from catalog.jobs import Claim, Queue
from catalog.registry import service as registry
from catalog.registry.models import Weights
from catalog.runs import progress
from catalog.runs import service as runs
from catalog.runs.models import Run
from contracts.adapter import AdapterHeader
from contracts.base import BaseDescription, Family
from contracts.run import RunRequest
from contracts.rundir import Completed
from tests.profiles import small_profile

OWNER = "ada"


@dataclass
class Make:
    """Fills a database with what a test takes for granted; every argument has a default."""

    database: Database
    recipes: Path
    serial: int = field(default=0)

    def description(self, identity: str = "a" * 64, **changes: Any) -> BaseDescription:
        profile = small_profile()
        known: dict[str, Any] = {
            "family": Family.SDXL,
            "identity": identity,
            "vae_identity": "b" * 64,
            "native_px": 64,
            "prediction_type": "epsilon",
            "latent_channels": 4,
            "vae_factor": 8,
            "profile": profile,
        }
        return BaseDescription(**known | changes)

    def base(self, name: str = "emoji", identity: str = "a" * 64) -> Base:
        with self.database.session() as session:
            return bases.add(session, name, f"bases/{name}", "MIT", self.description(identity))

    def dataset(self, name: str | None = None, images: int = 3, owner: str = OWNER) -> str:
        """A dataset that has been read: image k is called ``k.png`` and has one caption."""
        self.serial += 1
        with self.database.session() as session:
            dataset = datasets.create(session, owner, name or f"set-{self.serial}")
        if images:
            files = {f"{index}.png": f"{dataset.id}/{index}" for index in range(images)}
            self.ingest(dataset.id, files, {f"{index}.txt": f"caption {index}" for index in range(images)}, owner)
        return dataset.id

    def ingest(self, dataset_id: str, images: dict[str, str], captions: dict[str, str], owner: str = OWNER) -> None:
        """Upload and read: images are file name -> content, captions file name -> text."""
        with self.database.session() as session:
            for name in [*images, *captions]:
                datasets.offer_upload(session, owner, dataset_id, name, f"uploads/{owner}/x", 10)
        claim = self.claim(Queue.LIGHT)
        with self.database.session() as session:
            for row in ingest.pending_files(session, claim, limit=10_000):
                if row.kind == "image":
                    ingest.record_image(session, claim, row.id, decoded(images[row.filename]))
                elif row.kind == "caption":
                    ingest.record_caption(session, claim, row.id, captions[row.filename])
            ingest.finish(session, claim)

    def frozen(self, **arguments: Any) -> str:
        dataset_id = self.dataset(**arguments)
        with self.database.session() as session:
            datasets.freeze(session, arguments.get("owner", OWNER), dataset_id)
        return dataset_id

    def run(self, dataset: str | None = None, base: str | None = None, owner: str = OWNER, **overrides: Any) -> Run:
        """A queued run, with a base and a frozen dataset unless they are named."""
        request = RunRequest(
            dataset=dataset or self.frozen(owner=owner),
            base=base or self.base().name,
            recipe="demo",
            overrides={key.replace("__", "."): value for key, value in overrides.items()},
        )
        with self.database.session() as session:
            return runs.create(session, owner, request, self.recipes)

    def claim(self, queue: str, lease_s: float = 60.0, worker: str = "worker-1") -> Claim:
        with self.database.session() as session:
            found = jobs.claim(session, queue, worker, lease_s)
        assert found, f"nothing to claim on {queue}"
        return found[0]

    def training(self, lease_s: float = 60.0, **arguments: Any) -> tuple[Run, Claim]:
        """A run a worker has begun."""
        run = self.run(**arguments)
        claim = self.claim(Queue.TRAIN, lease_s)
        with self.database.session() as session:
            progress.begin(session, claim, "cpu", keeps_directory=False)
        return run, claim

    def weights(
        self, name: str = "style", base: str | None = None, metrics: Any = None, said: Any = None, **arguments: Any
    ) -> Weights:
        """Weights that were trained and registered; ``said`` is what their header says otherwise."""
        run, claim = self.training(base=base, **arguments)
        with self.database.session() as session:
            header = self.header(
                name=name, base_identity=run.base_identity, dataset_version=run.dataset_digest, **(said or {})
            )
            publication = registry.Publication(header, f"runs/{run.id}/1/w", "c" * 64, 123, metrics or {})
            published = registry.publish(session, claim, publication)
            progress.complete(session, claim, completed())
        return published

    def header(self, **changes: Any) -> AdapterHeader:
        known: dict[str, Any] = {
            "name": "style",
            "method": "lora",
            "base_identity": "a" * 64,
            "config_digest": "d" * 64,
            "dataset_version": "e" * 64,
            "trigger_word": "sks",
            "rank": 8,
            "alpha": 8.0,
            "targets": "attn",
            "resolution_px": 64,
            "prediction_type": "epsilon",
            "steps": 10,
            "created": "2026-01-01T00:00:00Z",
        }
        return AdapterHeader(**known | changes)

    def expire(self, claim: Claim) -> None:
        """As if the worker had been silent for longer than its lease."""
        with self.database.session() as session:
            assert jobs.heartbeat(session, claim.job_id, claim.fence, lease_s=-1.0) is not None


def decoded(content: str, width: int = 64, height: int = 48) -> DecodedImage:
    identity = hashlib.sha256(content.encode()).hexdigest()
    return DecodedImage(identity, width, height, f"images/{identity}.png")


def completed(step: int = 10, train_seconds: float = 5.0) -> Completed:
    return Completed(
        step=step,
        train_seconds=train_seconds,
        loss_first=0.5,
        loss_last=0.25,
        held_out_loss_before=None,
        held_out_loss_after=None,
        tracking="off",
    )


@pytest.fixture(name="decoded")
def _decoded() -> Callable[..., DecodedImage]:
    return decoded


@pytest.fixture(name="completed")
def _completed() -> Callable[..., Completed]:
    return completed


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "demo.yaml").write_text("# For tests.\npaths: {base_dir: nowhere}\nsteps: 10\nbatch_size: 2\n")
    return folder


@pytest.fixture
def rung(bells: list[str]) -> list[str]:
    """Queues whose bell was rung, in order."""
    bells.clear()
    return bells


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "patina.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres server of our own on a unix socket, without its disk guarantees."""
    bin_dir = _postgres_binaries()
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    as_account: dict[str, Any] = {}
    if os.getuid() == 0:
        shutil.chown(folder, account.pw_uid, account.pw_gid)
        as_account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    initdb = [bin_dir / "initdb", "-D", data, "-U", "patina", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_account)
    settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=40"
    control = [bin_dir / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", settings]
    subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_account)
    try:
        yield f"postgresql://patina@/postgres?host={folder}"
    finally:
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_account)
        shutil.rmtree(folder)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A file of the test's own."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'patina.db')}"


@pytest.fixture(scope="session")
def bells() -> list[str]:
    return []


@pytest.fixture(scope="session")
def sqlite_database(sqlite_template: Path, bells: list[str]) -> Iterator[Database]:
    database = Database(f"sqlite:///{sqlite_template}", bells.append)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgres_database(postgres_url: str, bells: list[str]) -> Iterator[Database]:
    database = Database(postgres_url, bells.append)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, rung: list[str]) -> Iterator[Database]:
    """An empty database of either kind; one engine serves all tests, so that statements are compiled once."""
    database: Database = request.getfixturevalue(f"{request.param}_database")
    yield database
    with database.engine.begin() as connection:
        for table in reversed(Table.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def make(database: Database, recipes: Path) -> Make:
    return Make(database, recipes)


@pytest.fixture
def owner() -> str:
    return OWNER


def _postgres_binaries() -> Path:
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_ctl")):
            return folder
    return pytest.skip("no Postgres server here: initdb is neither on PATH nor under /usr/lib/postgresql")


def _account() -> pwd.struct_passwd:
    """Postgres refuses to run as root: take an unprivileged account."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    found = accounts.get("postgres", accounts.get("nobody"))
    return found or pytest.skip("Postgres does not run as root, and there is no account postgres or nobody here")
