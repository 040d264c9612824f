"""Whether W&B's server can be used: asked once, before the run is opened, within seconds.

A W&B run that fails to open online cannot be opened offline in the same process, so the mode is settled first. Knows
nothing about runs.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from http.client import HTTPException
from typing import Literal
from urllib.error import HTTPError

import wandb

ANSWER_S = 5.0
OFFLINE = "WANDB_API_KEY is not set; `wandb sync` sends it later"

Mode = Literal["online", "offline", "degraded", "off"]
"""degraded: online was wanted, but it can only be kept offline."""


def choose_mode(enabled: bool) -> tuple[Mode, str]:
    """The mode, and in words why it is not simply online."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if not enabled or asked in ("disabled", "off"):
        return "off", "switched off by WANDB_MODE" if enabled else "switched off by tracking.enabled"
    if asked == "offline":
        return "offline", "WANDB_MODE says so"
    key = os.environ.get("WANDB_API_KEY")
    if not key:
        return "offline", OFFLINE
    refusal = _refusal(server_url(), key)
    return ("online", "") if refusal is None else ("degraded", f"{refusal}, so the run is kept offline")


def server_url() -> str:
    """WANDB_BASE_URL, or the one that this version of wandb was made for."""
    return os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url


def _refusal(url: str, key: str) -> str | None:
    """Why the server will not do, or None when it knows the key."""
    login = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{url.rstrip('/')}/graphql",
        data=json.dumps({"query": "query Viewer { viewer { id } }"}).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            found = json.loads(answer.read(1_000_000))
    except HTTPError as error:
        if error.code in (401, 403):
            return "the W&B server does not know the key"
        return f"the W&B server answers {error.code}"
    except (OSError, HTTPException, ValueError):
        return "the W&B server does not answer"
    known = isinstance(found, dict) and isinstance(found.get("data"), dict) and found["data"].get("viewer")
    return None if known else "the W&B server does not know the key"
