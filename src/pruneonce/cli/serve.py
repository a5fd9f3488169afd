"""`serve` and `loadtest`: packed files behind HTTP, and what a server bears."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pruneonce.cli.run import texts_of
from pruneonce.cli.show import plain
from pruneonce.errors import UsageError
from pruneonce.files import check_writable, write_json, write_text


def serve(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Packed files; NAME=FILE names one.")],
    host: Annotated[str, typer.Option(help="0.0.0.0 for other machines; then set an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8080,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Default one per core granted.")] = None,
    kernels: Annotated[str, typer.Option(help="measured, sparse or dense.")] = "measured",
    api_key_file: Annotated[Path | None, typer.Option(help="Keys, one a line; or one in $PRUNEONCE_API_KEY.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Pages of this origin may ask from a browser; may be repeated.")
    ] = None,
    log_requests: Annotated[bool, typer.Option(help="A line of JSON per request on standard error.")] = True,
    max_requests: Annotated[int, typer.Option(min=1, help="Of a model, not answered yet; more get 429.")] = 512,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of these requests together, and of one.")] = 262_144,
    max_wait_seconds: Annotated[
        float, typer.Option(min=0.001, help="That these tokens take; while it is more, only 32 requests are let in.")
    ] = 1.0,
    max_texts: Annotated[int, typer.Option(min=1, help="Of one request.")] = 2048,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of one request.")] = 2_000_000,
    max_connections: Annotated[int, typer.Option(min=1, help="At once.")] = 4096,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="After SIGTERM not ready, but still serving, for so long.")
    ] = 0.0,
) -> None:
    """Serve packed models over HTTP: the routes of text-embeddings-inference, OpenAI, KServe and our own."""
    from pruneonce.serve import process
    from pruneonce.serve.limits import Limits

    limits = Limits(
        requests=max_requests,
        tokens=max_tokens,
        wait_seconds=max_wait_seconds,
        texts=max_texts,
        body_bytes=max_body_bytes,
        connections=max_connections,
        drain_seconds=drain_seconds,
    )
    settings = process.ServeSettings(
        process.named_files(files),
        host=host,
        port=port,
        threads=threads,
        kernels=kernels,  # type: ignore[arg-type]  # loading a model checks it
        keys=process.keys_of(api_key_file),
        cors_origins=cors_origin or [],
        logs_requests=log_requests,
        limits=limits,
    )
    process.serve(settings, lambda line: print(plain(line), file=sys.stderr, flush=True))


def loadtest(
    url: Annotated[str, typer.Argument(help="http://HOST:PORT of any server with such a route.")],
    texts: Annotated[Path, typer.Option("--texts", help="A text per line; they are sent in turn.")],
    route: Annotated[str, typer.Option(help="/predict, /embed, /v1/embeddings, /rerank, /fill or /tag.")] = "/predict",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests per second that arrive, whatever the server does.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="Connections; without --rate each waits for its answers.")] = 32,
    per_request: Annotated[int, typer.Option(min=1, help="Texts of a request.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="After a second of warm-up.")] = 10.0,
    api_key: Annotated[str, typer.Option(envvar="PRUNEONCE_API_KEY", help="Of the server.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Keep the numbers.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw them by second.")] = None,
) -> None:
    """Load a server and measure latency from when requests were due, throughput, errors and changed answers."""
    from pruneonce.bench.serving import results
    from pruneonce.bench.serving.client import Target
    from pruneonce.bench.serving.load import LoadSettings, measure_load

    for file in (json_file, plot):
        if file is not None:
            check_writable(file)
    given = [text for text in texts_of(texts, "") if isinstance(text, str)]
    if not given:
        raise UsageError(f"loadtest: {texts} has no text")
    settings = LoadSettings(seconds, rate, clients, per_request)
    found = results.record(measure_load(Target.of(url, route, api_key or None), given, settings), settings)
    for line in results.lines(found):
        print(plain(line))
    if json_file is not None:
        write_json(json_file, found)
    if plot is not None:
        from pruneonce.report.load_chart import load_figure
        from pruneonce.report.page import STYLE
        from pruneonce.report.picture import picture

        write_text(plot, picture(load_figure(found), STYLE.read_text(encoding="utf-8")))
