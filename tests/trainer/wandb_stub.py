"""A W&B server of a few lines: what a run sends it, and a way to let it die. And a reader of offline .wandb files."""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

KEY = "k" * 40
RUN_FIELDS = {
    "id": "cnVu", "displayName": "tiny", "project": {"name": "patina", "entity": {"name": "me"}},
    "historyLineCount": 0, "sweepName": None,
}  # fmt: skip

COMMITTED = {
    "__typename": "Artifact", "id": "a", "versionIndex": 0, "artifactType": {"name": "model"}, "description": None,
    "artifactSequence": {"__typename": "ArtifactSequence", "name": "tiny", "project": {
        "id": "p", "internalId": "UHJvamVjdDox", "name": "patina", "entity": {"name": "me"}}},
    "metadata": None, "ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [], "historyStep": None,
    "state": "COMMITTED", "size": 100, "digest": "d", "commitHash": None, "fileCount": 1,
    "createdAt": "2026-01-01T00:00:00", "updatedAt": None, "aliases": [],
}  # fmt: skip


class WandbStub:
    """Serves on loopback while the ``with`` block runs."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.variables: list[dict[str, Any]] = []
        self.history: dict[str, list[dict[str, Any]]] = {}
        """Rows by run id, in the order they came."""
        self.summary: dict[str, dict[str, Any]] = {}
        self.uploaded: list[str] = []
        self.artifacts: list[dict[str, Any]] = []
        self.committed: list[dict[str, Any]] = []
        self.hangs = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> WandbStub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """To one GraphQL request."""
        query, variables = body["query"], body.get("variables") or {}
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        self.queries.append(name)
        self.variables.append(variables)
        run_id = variables.get("name") or variables.get("runName") or ""
        if name == "RunResumeStatus":
            return {"model": {"id": "m", "name": "patina", "entity": {"id": "e", "name": "me"},
                              "bucket": self._known(str(run_id))}}  # fmt: skip
        if "upsertBucket" in query:
            bucket = RUN_FIELDS | {"name": run_id, "config": "{}"}
            return {"upsertBucket": {"bucket": bucket, "inserted": run_id not in self.history}}
        if "createRunFiles" in query:
            files = [{"name": one, "uploadUrl": f"{self.url}/put/{one}"} for one in variables["files"]]
            return {"createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": files}}
        if name == "ArtifactType":
            return {"project": {"artifact": None}}
        if "createArtifact(" in query:
            self.artifacts.append(variables)
            return {"createArtifact": {"artifact": {"id": "a", "state": "PENDING", "artifactSequence": {
                "id": "s", "latestArtifact": None}}}}  # fmt: skip
        if "createArtifactManifest(" in query or "updateArtifactManifest(" in query:
            what = "createArtifactManifest" if "createArtifactManifest(" in query else "updateArtifactManifest"
            return {what: {"artifactManifest": {"id": "m", "file": self._upload("wandb_manifest.json")}}}
        if "createArtifactFiles(" in query:
            names = [one["name"] for one in variables["input"]["artifactFiles"]]
            files = [self._upload(one) | {"name": one, "artifact": {"id": "a"}} for one in names]
            return {"createArtifactFiles": {"files": {"edges": [{"node": one} for one in files]}}}
        if "commitArtifact(" in query:
            self.committed.append(variables)
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        if name == "ArtifactByID":
            return {"artifact": COMMITTED}
        if "viewer" in query:
            return {"viewer": {"id": "me", "entity": "me", "username": "me", "flags": "{}",
                               "teams": {"edges": []}}}  # fmt: skip
        return {}

    def _upload(self, name: str) -> dict[str, Any]:
        return {"id": name, "displayName": name, "storagePath": name, "uploadUrl": f"{self.url}/put/{name}",
                "uploadHeaders": [], "uploadMultipartUrls": None}  # fmt: skip

    def _known(self, run_id: str) -> dict[str, Any] | None:
        rows = self.history.get(run_id)
        if rows is None:
            return None
        return RUN_FIELDS | {
            "name": run_id, "summaryMetrics": json.dumps(rows[-1]), "config": "{}", "historyLineCount": len(rows),
            "eventsLineCount": 0, "logLineCount": 0, "historyTail": json.dumps([json.dumps(rows[-1])]),
            "eventsTail": "[]", "tags": [], "wandbConfig": '{"t": 1}',
        }  # fmt: skip

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if stub.hangs:
                    threading.Event().wait(600)
                if self.path.startswith("/graphql"):
                    login = base64.b64encode(f"api:{KEY}".encode()).decode()
                    if self.headers.get("authorization") != f"Basic {login}":
                        self.reply(401, {"errors": [{"message": "unknown key"}]})
                    else:
                        self.reply(200, {"data": stub.answer(json.loads(body))})
                    return
                if self.path.endswith("/file_stream"):
                    stub.take(self.path.split("/")[-2], json.loads(body))
                self.reply(200, {"exitcode": None, "limits": {}})

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                stub.uploaded.append(self.path)
                self.reply(200, {})

            def do_GET(self) -> None:
                self.reply(200, {})

            def reply(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        return Handler

    def take(self, run_id: str, body: dict[str, Any]) -> None:
        """Keep what a run streams."""
        history = (body.get("files") or {}).get("wandb-history.jsonl")
        if history is not None:
            rows = self.history.setdefault(run_id, [])
            del rows[history["offset"] :]
            rows += [json.loads(line) for line in history["content"]]
        summary = (body.get("files") or {}).get("wandb-summary.json")
        if summary is not None:
            self.summary[run_id] = json.loads(summary["content"][-1])


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: a LevelDB log (32 KiB blocks of checksum, length, type) of protobuf messages."""
    data, offset, whole = file.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        if 32768 - offset % 32768 < 7:  # a block's last bytes hold no record
            offset += 32768 - offset % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        whole += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # full, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(file: Path) -> list[dict[str, Any]]:
    """The rows a .wandb file holds."""
    return [
        {
            name: value
            for item in record.history.item
            for name, value in _flat(item.key or "/".join(item.nested_key), json.loads(item.value_json))
        }
        for record in records(file)
        if record.WhichOneof("record_type") == "history"
    ]


def runs(file: Path) -> list[Any]:
    """Which runs a .wandb file is of."""
    return [record.run for record in records(file) if record.WhichOneof("record_type") == "run"]


def artifacts(file: Path) -> list[Any]:
    """What a .wandb file says is to be uploaded as artifacts."""
    asked = [record.request for record in records(file) if record.WhichOneof("record_type") == "request"]
    logged = [one.log_artifact.artifact for one in asked if one.WhichOneof("request_type") == "log_artifact"]
    return logged + [record.artifact for record in records(file) if record.WhichOneof("record_type") == "artifact"]


def config(file: Path) -> dict[str, Any]:
    """The configuration a .wandb file holds."""
    found: dict[str, Any] = {}
    for record in records(file):
        if record.WhichOneof("record_type") == "run":
            found |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return found


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A picture's own fields beside the plain values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}/{key}", inner)
    else:
        yield name, value
