"""The OpenAPI document of a server: its routes, and what they read and write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

import pruneonce
from pruneonce.serve.route import Route

REFERENCE = "#/components/schemas/{model}"
ERROR = {
    "type": "object",
    "description": "By contract: `error` and `error_type` as TEI, `error` alone under /v2, OpenAI's under /v1.",
    "properties": {"error": {"anyOf": [{"type": "string"}, {"type": "object"}]}, "error_type": {"type": "string"}},
    "required": ["error"],
}
STATUSES = {
    "400": "no JSON, or nothing in it",
    "401": "a key is expected",
    "404": "no such model",
    "408": "the body came too slowly",
    "413": "more than this server takes at once",
    "415": "another content type than application/json",
    "421": "another host",
    "422": "not what is expected here",
    "424": "the model cannot do this, or failed",
    "429": "no room; Retry-After says when",
    "503": "shutting down, or not answering",
}


def document(routes: Sequence[Route], *, with_keys: bool) -> dict[str, Any]:
    schemas: dict[str, Any] = {"Error": ERROR}

    def schema(kind: Any, mode: Any) -> dict[str, Any]:
        made = TypeAdapter(kind).json_schema(ref_template=REFERENCE, mode=mode)
        schemas.update(made.pop("$defs", {}))
        if "title" in made and made.get("type") == "object":
            schemas[made["title"]] = made
            return {"$ref": REFERENCE.format(model=made["title"])}
        return made

    refused = {"content": {"application/json": {"schema": {"$ref": REFERENCE.format(model="Error")}}}}
    paths: dict[str, Any] = {}
    for route in routes:
        answer: dict[str, Any] = {"description": "answered"}
        if route.answers is not None:
            answer["content"] = {"application/json": {"schema": schema(route.answers, "serialization")}}
        operation: dict[str, Any] = {
            "summary": route.summary,
            "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
            "responses": {"200": answer} | {code: {"description": why, **refused} for code, why in STATUSES.items()},
        }
        if names := re.findall(r"{(\w+)}", route.path):
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        if route.body is not None:
            content = {"application/json": {"schema": schema(route.body, "validation")}}
            operation["requestBody"] = {"required": True, "content": content}
        if route.is_open:
            operation["security"] = []
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    made = {
        "openapi": "3.1.0",
        "info": {"title": "pruneonce serve", "version": pruneonce.__version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
    return made | ({"security": [{"key": []}]} if with_keys else {})
