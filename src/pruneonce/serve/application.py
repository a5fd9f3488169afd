"""All routes as one ASGI application."""

from __future__ import annotations

from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route as PathRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pruneonce.serve import embeddings, kserve, questions, ranking, tei
from pruneonce.serve.endpoint import Endpoint
from pruneonce.serve.openapi import document
from pruneonce.serve.page import ROUTE as PAGE_ROUTE
from pruneonce.serve.route import Exchange, Reply, Route, json_bytes
from pruneonce.serve.server import Server

ROUTES = [*tei.ROUTES, *embeddings.ROUTES, *ranking.ROUTES, *questions.ROUTES, *kserve.ROUTES]
# Where models are asked, but for those that a path names.
MODEL_PATHS = frozenset(route.path for route in ROUTES if route.body is not None and "{" not in route.path)


def application(server: Server, cors_origins: list[str]) -> ASGIApp:
    """cors_origins: pages of these may ask from a browser; "*" is any."""
    described: bytes | None = None

    async def openapi(_: Exchange, __: None) -> Reply:
        nonlocal described
        described = described or json_bytes(document(routes, with_keys=bool(server.keys)))
        return Reply(described)

    routes = [*ROUTES, Route("GET", "/openapi.json", openapi, "This document", dict[str, Any])]
    by_path: dict[str, dict[str, Route]] = {}
    for route in (*routes, PAGE_ROUTE):
        by_path.setdefault(route.path, {})[route.method] = route
    endpoints = {path: Endpoint(server, methods) for path, methods in by_path.items()}
    router = Router(
        [PathRoute(path, endpoint=endpoint) for path, endpoint in endpoints.items() if "{" in path],
        redirect_slashes=False,
        default=Endpoint(server, {}),
    )

    async def http_alone(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":  # the router tries its patterns one by one
            await endpoints.get(scope["path"], router)(scope, receive, send)

    if not cors_origins:
        return http_alone
    exposed = ["x-request-id", "x-truncated", "x-compute-tokens", "retry-after"]
    return CORSMiddleware(
        http_alone,
        allow_origins=cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-request-id"],
        expose_headers=exposed,
    )
