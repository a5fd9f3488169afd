"""The command line: its commands, how errors end it, and its version.

A command parses its arguments, calls one function of the library and prints the answer. Each is in the file of its
subject; heavy libraries are imported inside the command that needs them, so that `--help` is instant.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pruneonce import __version__
from pruneonce.cli import bench, compress, convert, data, report, run, serve, study, train
from pruneonce.cli.show import plain
from pruneonce.errors import PruneonceError, UsageError

# What a serving install lacks -> the extra of pyproject.toml that brings it.
EXTRA_OF = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "datasets", "pyarrow", "mwparserfromhell"), "train"),
    **dict.fromkeys(("huggingface_hub",), "train"),  # by way of transformers
    **dict.fromkeys(("onnx", "onnxruntime"), "onnxruntime"),
    **dict.fromkeys(("openvino", "nncf"), "bench"),
    "tensorboard": "tensorboard",
    "sentence_transformers": "sentence-transformers",
    **dict.fromkeys(("starlette", "uvicorn", "httptools", "pydantic", "orjson", "prometheus_client", "anyio"), "serve"),
}

RESUMING = (
    "compress",
    "teacher",
    "prune",
    "finetune",
    "quantize",
    "study",
    "quickstart",
    "data",
)  # begun again, they go on


class _Commands(TyperGroup):
    """Says on Ctrl-C what was kept; typer would end without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            goes_on = ". The same command goes on" if ctx.invoked_subcommand in RESUMING else ""
            print(f"{plain(stop) or 'interrupted'}{goes_on}", file=sys.stderr)
            raise typer.Exit(130) from stop


app = typer.Typer(
    cls=_Commands,
    help="Prune a BERT once, while it is being pre-trained; fine-tune it with its zeros locked; run it on a CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    compress.compress,
    train.teacher,
    train.prune,
    train.finetune,
    train.quantize,
    study.study,
    report.report,
    convert.inspect,
    convert.export,
    convert.push,
    convert.import_,
    run.evaluate,
    run.predict,
    run.embed,
    serve.serve,
    serve.loadtest,
    train.doctor,
    bench.bench,
    bench.bench_train,
    study.quickstart,
):
    app.command(command.__name__.strip("_").replace("_", "-"))(command)
data_app = typer.Typer(help="Turn raw text into pre-training examples.", no_args_is_help=True)
for step in (data.wikipedia, data.text, data.pretraining):
    data_app.command(step.__name__)(step)
app.add_typer(data_app, name="data")


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the thing asked for failed, 2 wrong usage."""
    try:
        app()
    except PruneonceError as error:
        if os.environ.get("PRUNEONCE_TRACEBACK"):
            raise
        print(f"error: {plain(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except (OSError, UnicodeEncodeError) as error:
        told = _told(error)
        if told is None or os.environ.get("PRUNEONCE_TRACEBACK"):
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF or os.environ.get("PRUNEONCE_TRACEBACK"):
            raise
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "pruneonce")
        print(f"error: {plain(command)} needs {package}: pip install 'pruneonce[{EXTRA_OF[package]}]'", file=sys.stderr)
        sys.exit(1)


def _told(error: OSError | UnicodeEncodeError) -> str | None:
    """The line for a name of the user's that the system or a record cannot take; None for anything else."""
    if isinstance(error, UnicodeEncodeError):
        half = error.object[error.start : error.end]
        if "\udc80" <= half[:1] <= "\udcff":  # how Python holds bytes of a file name that are not UTF-8
            return f"a name with the bytes {plain(half)} is not UTF-8, which records and models need: rename it"
        return None
    if error.errno != errno.ENAMETOOLONG:
        return None
    return f"{plain(error.filename)[:60]}…: {error.strerror}: give a shorter one"


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit
