"""The API's own description: FastAPI's, with the shape of problems added. Knows no routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from api.errors import PROBLEM_SCHEMA, Problem


def describe(app: FastAPI) -> None:
    """Let /openapi.json carry the Problem schema that error answers refer to."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        described = plain()
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas[PROBLEM_SCHEMA.rpartition("/")[2]] = problem
        return described

    app.openapi = openapi  # type: ignore[method-assign] # the extension point FastAPI documents
