"""The Python SDK: Patina's HTTP API as functions. Answers are the API's own JSON (docs/api.md, /docs).

    with Client("http://127.0.0.1:8470") as patina:
        run = patina.create_run({"dataset": "my-style", "base": "emoji-xl", "recipe": "demo"})

Every refusal is a PatinaError with the server's code, message and hint. Knows nothing about terminals.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from contracts.failures import FailureCode, PatinaError
from contracts.run import FINISHED
from patina.events import ENDED, Message, lines, messages, says_the_end
from patina.targets import writing
from patina.wire import READ_TIMEOUT_S, connection, raise_problem

Json = dict[str, Any]

UPLOAD_TIMEOUT_S = 600.0
RECONNECTS = 8
"""Times in a row an event stream is taken up again before the server counts as gone."""
LONGEST_PAUSE_S = 5.0


class Client:
    """A connection to one server.

    Args:
        url: where the server is, without /api/v1.
        key: API key; None works on the server's own machine.
        transport: how requests travel; tests give their own.
        pause: waits that many seconds between attempts to take up a stream again.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.pause = pause
        self._http = connection(self.url, key, transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> Json:
        """What /readyz says, ready or not."""
        return dict(self.request("GET", "/readyz", refuse=False).json())

    # Bases and recipes

    def bases(self) -> list[Json]:
        """Every base."""
        return self._list("/bases")

    def base(self, name: str) -> Json:
        """One base."""
        return self._get(f"/bases/{name}")

    def recipes(self) -> list[Json]:
        """Every recipe."""
        return self._list("/recipes")

    # Datasets

    def create_dataset(self, name: str) -> Json:
        """A new, empty dataset."""
        return self._post("/datasets", {"name": name})

    def datasets(self) -> list[Json]:
        """Every dataset."""
        return self._list("/datasets")

    def dataset(self, id_or_name: str) -> Json:
        """One dataset."""
        return self._get(f"/datasets/{id_or_name}")

    def upload(self, dataset_id: str, files: Sequence[tuple[str, Path]]) -> Json:
        """Send files under the given names; they are read by a worker after the answer."""
        opened = [(name, path.open("rb")) for name, path in files]
        try:
            parts = [("files", (name, file)) for name, file in opened]
            return self._json("POST", f"/datasets/{dataset_id}/files", files=parts, timeout=UPLOAD_TIMEOUT_S)
        finally:
            for _, file in opened:
                file.close()

    def ledger(self, dataset_id: str) -> list[Json]:
        """The fate of every file ever offered."""
        return self._list(f"/datasets/{dataset_id}/ledger")

    def freeze(self, dataset_id: str, held_out_share: float, accept_warnings: bool = False) -> Json:
        """Freeze a version; the same content gives the same version again."""
        wanted = {"held_out_share": held_out_share, "accept_warnings": accept_warnings}
        return self._post(f"/datasets/{dataset_id}/versions", wanted)

    def versions(self, dataset_id: str) -> list[Json]:
        """Every frozen version."""
        return self._list(f"/datasets/{dataset_id}/versions")

    # Runs

    def create_run(self, request: Json, memory: str | None = None) -> Json:
        """Queue a run, unless it takes more memory than this."""
        return self._json("POST", "/runs", json=request, params={"memory": memory})

    def plan_run(self, request: Json, memory: str | None = None) -> Json:
        """Check a run and say what it would take and what makes it fit, without creating it."""
        return self._json("POST", "/runs", json=request, params={"dry_run": "true", "memory": memory})

    def runs(self, status: str | None = None) -> list[Json]:
        """Every run, or those of one status."""
        return self._list("/runs", **({"status": status} if status else {}))

    def run(self, run_id: str) -> Json:
        """One run."""
        return self._get(f"/runs/{run_id}")

    def ask_run(self, run_id: str, what: Literal["cancel", "resume", "save", "preview"]) -> Json:
        """Ask a run for its end, a checkpoint or previews, at its next step; or one that failed to go on."""
        return self._post(f"/runs/{run_id}/{what}")

    def run_previews(self, run_id: str) -> list[Json]:
        """The pictures made while training."""
        return self._list(f"/runs/{run_id}/previews")

    def run_metrics(self, run_id: str) -> Json:
        """The run's series of numbers."""
        return self._get(f"/runs/{run_id}/metrics")

    def run_log(self, run_id: str) -> str:
        """The trainer's log."""
        return self.request("GET", f"/api/v1/runs/{run_id}/log").text

    def run_events(self, run_id: str, after: int = 0) -> Iterator[Message]:
        """Everything the run says, until it has ended."""
        return self.events(f"/runs/{run_id}", FINISHED, after)

    # Weights

    def all_weights(self) -> list[Json]:
        """Every registered name."""
        return self._list("/weights")

    def weights(self, name: str) -> Json:
        """One name with its versions."""
        return self._get(f"/weights/{name}")

    def weights_version(self, name: str, version_or_alias: str) -> Json:
        """One version, by number or alias."""
        return self._get(f"/weights/{name}/{version_or_alias}")

    def download_weights(self, name: str, version_or_alias: str, target: Path) -> int:
        """Write the file to ``target``, all of it or nothing; its size in bytes."""
        return self.download(f"/weights/{name}/{version_or_alias}/file", target)

    # Generations

    def generate(self, request: Mapping[str, Any], wait_s: float) -> Json:
        """Ask for pictures and wait at most that long for them."""
        headers = {"Prefer": f"wait={wait_s:g}"}
        return self._json("POST", "/generations", json=dict(request), headers=headers, timeout=wait_s + READ_TIMEOUT_S)

    def generation(self, generation_id: str) -> Json:
        """One generation."""
        return self._get(f"/generations/{generation_id}")

    def cancel_generation(self, generation_id: str) -> Json:
        """Ask a generation to stop."""
        return self._post(f"/generations/{generation_id}/cancel")

    def download_image(self, sha256: str, target: Path) -> int:
        """Write a picture to ``target``; its size in bytes."""
        return self.download(f"/images/{sha256}", target)

    # Below: how requests travel

    def events(self, path: str, ended: Container[str], after: int = 0) -> Iterator[Message]:
        """What is said of the thing at ``path`` until its status is one of ``ended``; a lost connection is taken up."""
        failures = 0
        while True:
            with contextlib.suppress(httpx.TransportError):
                for message in self._stream(f"{path}/events", after):
                    if message is ENDED:
                        return
                    failures, after = 0, int(message.id) if message.id else after
                    yield message
                    if says_the_end(message, ended):
                        return
            failures += 1
            if failures > RECONNECTS:
                raise PatinaError(FailureCode.SERVER_UNREACHABLE, f"The stream of {path} broke off.")
            self.pause(min(0.25 * 2**failures, LONGEST_PAUSE_S))

    def _get(self, path: str) -> Json:
        return self._json("GET", path)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Json:
        return self._json("POST", path, json=dict(body)) if body is not None else self._json("POST", path)

    def _list(self, path: str, **query: str) -> list[Json]:
        found: list[Json] = []
        cursor: str | None = None
        while True:
            page = self.request("GET", f"/api/v1{path}", params=query | ({"cursor": cursor} if cursor else {})).json()
            if isinstance(page, list):  # short lists come whole
                return page
            found += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return found

    def _json(self, method: str, path: str, **options: Any) -> Json:
        return dict(self.request(method, f"/api/v1{path}", **options).json())

    def request(self, method: str, path: str, refuse: bool = True, **options: Any) -> httpx.Response:
        """One request as it is; a refusal is a failure."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if refuse:
            raise_problem(response)
        return response

    def _stream(self, path: str, after: int) -> Iterator[Message]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
        with self._http.stream("GET", f"/api/v1{path}", headers=headers) as response:
            if not response.is_success:
                response.read()
                raise_problem(response)
            if response.status_code == httpx.codes.NO_CONTENT:
                yield ENDED
            yield from messages(lines(response.iter_text()))

    def download(self, path: str, target: Path) -> int:
        """Write what lies at ``path`` to ``target``, all of it or nothing; its size in bytes."""
        partial = target.parent / f"{target.name}.part"
        with writing(target):
            try:
                with self._http.stream("GET", f"/api/v1{path}") as response:
                    if not response.is_success:
                        response.read()
                        raise_problem(response)
                    with partial.open("wb") as file:
                        for chunk in response.iter_bytes():
                            file.write(chunk)
                partial.replace(target)
            except httpx.TransportError as error:
                raise self._unreachable(error) from None
            finally:
                partial.unlink(missing_ok=True)
            return target.stat().st_size

    def _unreachable(self, error: httpx.TransportError) -> PatinaError:
        late = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout)
        words = "did not answer in time" if late else "does not answer"
        return PatinaError(FailureCode.SERVER_UNREACHABLE, f"The Patina server at {self.url} {words}.")
