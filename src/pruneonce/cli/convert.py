"""`inspect export push import`: what is in a model folder or a packed file, and from one form to another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pruneonce.cli.options import JSON
from pruneonce.cli.show import folding_table, plain, print_json, terminal
from pruneonce.errors import UsageError

if TYPE_CHECKING:
    from pruneonce.convert.inspect_folder import Inspection, Total
    from pruneonce.convert.inspect_packed import PackedInspection


def inspect(model: Path, as_json: JSON = False) -> None:
    """Sparsity, mask digest and bytes of every matrix of a model folder or a packed file, and the totals."""
    from pruneonce.convert.inspect import inspect as measure
    from pruneonce.convert.inspect_packed import PackedInspection

    report = measure(model)
    if as_json:
        print_json(report.as_dict())
    elif isinstance(report, PackedInspection):
        _print_packed(report)
    else:
        _print_inspection(report)


def export(
    model: Path,
    out: Annotated[Path, typer.Option("--out", help="File to write, by custom NAME.pruneonce or NAME.onnx.")],
    to: Annotated[str, typer.Option("--to", help="packed: our engine's one file; onnx: for other engines.")] = "packed",
    embeddings: Annotated[str, typer.Option(help="packed: type of the embeddings, fp32, fp16, bf16 or int8.")] = "fp16",
    values: Annotated[str, typer.Option(help="packed: type of the encoder's matrices, fp32, fp16 or bf16.")] = "fp32",
    as_json: JSON = False,
) -> None:
    """Write a model folder as one file that needs no torch."""
    if to == "onnx":
        if (embeddings, values) != ("fp16", "fp32"):
            raise UsageError("--embeddings and --values are for --to packed; an ONNX file has float32 weights")
        _export_onnx(model, out, as_json)
        return
    from pruneonce.convert.inspect_packed import inspect_packed
    from pruneonce.convert.to_packed import export_packed

    if to != "packed":
        raise UsageError(f"--to cannot be '{to}': expected packed or onnx")
    export_packed(model, out, embeddings=embeddings, values=values)
    report = inspect_packed(out)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_packed_totals(report)


def push(
    run: Annotated[Path, typer.Argument(help="A finished model folder, or one that `compress` made.")],
    repo: Annotated[str, typer.Option("--repo", help="OWNER/NAME on the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by nobody else.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; default main.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which files would be sent.")] = False,
    as_json: JSON = False,
) -> None:
    """Send a model to the Hugging Face Hub: folder, card, packed file. Log in with `hf auth login`, or set HF_TOKEN."""
    from pruneonce.convert.to_hub import push as send

    pushed = send(run, repo, private=private, revision=revision, dry_run=dry_run)
    if as_json:
        print_json(asdict(pushed))
        return
    for name, size in pushed.files.items():
        print(f"{size / 1e6:9.2f} MB  {plain(name)}")
    print(f"{pushed.repo}: nothing was sent" if dry_run else f"{pushed.repo}: commit {plain(pushed.commit)}")


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that compressed-tensors wrote as sparse-bitmask.")],
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    as_json: JSON = False,
) -> None:
    """Turn a sparse-bitmask checkpoint, which its own library no longer reads, into a model folder."""
    from pruneonce.convert.from_sparse_bitmask import import_checkpoint

    found = import_checkpoint(checkpoint, out)
    if as_json:
        print_json(asdict(found))
    else:
        print(
            f"{found.folder}: {found.tensors} tensors, {found.decompressed} decompressed ({found.sparsity:.1%} zeros)"
        )
        print(f"{found.bytes_before / 1e6:.2f} MB became {found.bytes_after / 1e6:.2f} MB")


def _export_onnx(model: Path, out: Path, as_json: bool) -> None:
    from pruneonce.convert.to_onnx import export_onnx
    from pruneonce.models.hub import quiet_transformers

    quiet_transformers()
    written = export_onnx(model, out)
    if as_json:
        print_json(asdict(written))
        return
    print(f"{plain(written.file)}: {written.bytes / 1e6:.2f} MB, opset {written.opset}")
    print(f"{', '.join(written.inputs)} -> {', '.join(written.outputs)}, for any number of sequences and tokens")
    print(f"largest difference from PyTorch on sample text, in ONNX Runtime: {written.max_difference:.1e}")
    if written.dequantized:
        print("the folder is quantised: the file holds its de-quantised float weights, not its int8 scales")


def _print_inspection(report: Inspection) -> None:
    table = folding_table("tensor", "shape", "zeros", "MB", "mask digest", title=report.folder)
    for matrix in report.matrices:
        shape = " x ".join(map(str, matrix.shape))
        zeros = f"{matrix.sparsity:.2%}" if matrix.prunable else ""
        table.add_row(matrix.name, shape, zeros, f"{matrix.bytes / 1e6:.2f}", matrix.mask_digest[:12])
    table.add_section()
    totals: tuple[tuple[str, Total], ...] = (
        ("prunable (encoder linears, pooler)", report.prunable),
        ("all but the embeddings", report.without_embeddings),
        ("everything", report.everything),
    )
    for name, total in totals:
        table.add_row(name, f"{total.parameters:,}", f"{total.sparsity:.2%}", f"{total.bytes / 1e6:.2f}", "")
    console = terminal()
    console.print(table)
    runs = "runs" if report.obstacle is None else f"DOES NOT RUN: {plain(report.obstacle)}"
    console.print(f"in the engine it {runs}", markup=False)
    if report.lock_intact is not None:
        state = "are the recorded ones" if report.lock_intact else "ARE NOT the recorded ones"
        console.print(f"stage {plain(report.stage)}; the zeros {state}", markup=False)


def _print_packed(report: PackedInspection) -> None:
    table = folding_table("tensor", "shape", "zeros", "type", "encoding", "bits", "MB", title=report.file)
    for tensor in report.tensors:
        if len(tensor.shape) < 2:
            continue  # biases and layer norms: see the totals
        shape = " x ".join(map(str, tensor.shape))
        zeros = f"{tensor.sparsity:.2%}" if tensor.sparse else ""
        bits = f"{tensor.position_bits:.3f}" if tensor.sparse else ""
        size = f"{(tensor.value_bytes + tensor.position_bytes) / 1e6:.2f}"
        table.add_row(tensor.name, shape, zeros, tensor.type, tensor.encoding, bits, size)
    terminal().print(table)
    _print_packed_totals(report)
    if report.lock_intact is not None:
        state = "are the recorded ones" if report.lock_intact else "ARE NOT the recorded ones"
        print(f"stage {plain(report.stage)}; the zeros {state}")


def _print_packed_totals(report: PackedInspection) -> None:
    table = folding_table("part", "MB", "share")
    for kind, size in report.bytes_by_kind.items():
        table.add_row(kind, f"{size / 1e6:.2f}", f"{size / report.bytes:.1%}")
    table.add_section()
    table.add_row("file", f"{report.bytes / 1e6:.2f}", "")
    table.add_row("dense fp32", f"{report.dense_bytes / 1e6:.2f}", "")
    terminal().print(table)
    bits = f"{report.position_bits:.3f} bits of position per weight"
    print(f"{plain(report.file)}: format {report.format_version}, {bits}, attention in {report.attention}")
    print(
        f"times smaller than dense fp32: file {report.ratio:.1f}, encoder {report.encoder_ratio:.1f} "
        f"(its non-zero numbers alone, as papers count: {report.encoder_ratio_of_numbers:.1f})"
    )
