"""A stand-in for the Hugging Face hub on loopback, for the tests that have its real client download from it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Hub:
    """Data sets by name, each a dictionary of files; a private one is given only to whoever sends the token."""

    url: str = ""
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""

    def environment(self, folder: Path) -> dict[str, str]:
        """What has the hub's client ask here and keep what it downloads in a folder."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, as the hub answers."""
        self.asked.append((method, path))
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        is_api = parts[0] == "api"
        name = "/".join(parts[2:4] if is_api else parts[1:3])
        if name not in self.datasets or (self.token and authorization != f"Bearer {self.token}"):
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}, b""
        files = self.datasets[name]
        if is_api and parts[4:5] == ["tree"]:
            listed = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
        if is_api:
            siblings = [{"rfilename": file} for file in files]
            told = {"_id": "1", "id": name, "sha": COMMIT, "private": bool(self.token), "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()
        content = files.get("/".join(parts[5:]))
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        digest = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, content


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that listens, until the end of the block."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = served.answer(self.command, self.path, self.headers.get("Authorization"))
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing: what was asked is in ``asked``."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
