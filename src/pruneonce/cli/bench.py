"""`bench` and `bench-train`: the engine and our training beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pruneonce.cli.show import folding_table, terminal
from pruneonce.errors import UsageError
from pruneonce.files import check_writable, write_json
from pruneonce.machine import available_cores
from pruneonce.progress import progress_bar


def bench(
    model: Annotated[Path | None, typer.Argument(help="A model folder, in floats or quantised.")] = None,
    against: Annotated[str, typer.Option(help="Some of torch, onnxruntime, openvino, deepsparse.")] = (
        "torch,onnxruntime,openvino"
    ),
    random: Annotated[str, typer.Option(help="No MODEL but bert-base, bert-large, distilbert or minilm.")] = "",
    sparsity: Annotated[float, typer.Option(help="Of --random.")] = 0.9,
    pattern: Annotated[str, typer.Option(help="Of the zeros of --random; or 1x4.")] = "unstructured",
    head: Annotated[str, typer.Option(help="Of --random, or question-answering.")] = "sequence-classification",
    grid: Annotated[str, typer.Option(help="Batches, SEQUENCESxTOKENS each.")] = "1x32,1x128,16x128,1x384",
    mixed: Annotated[str, typer.Option(help="Mixed lengths too: squad, or a file of token counts.")] = "",
    texts: Annotated[Path | None, typer.Option(help="Take the words from this file; default random ones.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every engine; default one per core.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls of each engine per batch.")] = 10,
    settle: Annotated[int, typer.Option(min=0, help="Untimed calls before each timed one.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of engines in each round.")] = 0,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Every engine in 8 bits too.")] = True,
    task: Annotated[str, typer.Option(help="Score every engine's answers too: squad or a GLUE task.")] = "",
    data: Annotated[str, typer.Option(help="Examples of --task; default its split on the Hub.")] = "",
    examples: Annotated[int | None, typer.Option(min=1, help="How many of them; default all.")] = None,
    deepsparse_python: Annotated[Path | None, typer.Option(help="Python that has deepsparse.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep the raw timings, for `report`.")
    ] = None,
) -> None:
    """Measure the engine beside others: same inputs, calls in turn, outputs compared."""
    from pruneonce.bench.inference import results

    if (model is None) == (not random):
        raise UsageError("one model folder is expected, or --random bert-base")
    if json_file is not None:
        check_writable(json_file)
    from pruneonce.bench.inference.run import BenchSettings, run_on_folder, run_on_random
    from pruneonce.recipe import TaskData

    settings = BenchSettings(
        against=tuple(name.strip() for name in against.split(",") if name.strip()),
        grid=grid,
        threads=threads or available_cores(),
        rounds=rounds,
        settle=settle,
        seed=seed,
        mixed=mixed,
        texts=texts,
        int8=int8,
        deepsparse_python=deepsparse_python,
        task=TaskData(task, validation=data, validation_examples=examples) if task else None,
    )
    with progress_bar("bench") as advance:
        if random:
            record = run_on_random(random, head, sparsity, settings, advance, pattern=pattern)
        else:
            assert model is not None
            record = run_on_folder(model, settings, advance)
    for line in results.summary(record):
        terminal().print(line)
    for table in results.tables(record):
        terminal().print(table)
    for case in record.cases:
        rows = results.process_rows(record, case)
        if rows:
            processes = folding_table(*results.PROCESS_COLUMNS)
            for row in rows:
                processes.add_row(*row)
            terminal().print(f"{case.name}, processes")
            terminal().print(processes)
    for line in [*results.accuracy_lines(record), *results.mixed_lines(record)]:
        terminal().print(line)
    if json_file is not None:
        write_json(json_file, record.as_json())


def bench_train(
    model: Annotated[Path | None, typer.Argument(help="A model folder with zeros.")] = None,
    random: Annotated[str, typer.Option(help="No MODEL but bert-base, bert-large, distilbert or minilm.")] = "",
    sparsity: Annotated[float, typer.Option(help="Of --random.")] = 0.9,
    grid: Annotated[str, typer.Option(help="Batches, SEQUENCESxTOKENS each.")] = "16x128",
    task: Annotated[str, typer.Option(help="classification or question_answering.")] = "classification",
    rounds: Annotated[int, typer.Option(min=1, help="Measured steps of each, after one that is not.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every training; default one per core.")] = None,
    dropout: Annotated[float, typer.Option(help="Of every training.")] = 0.0,
    kernel: Annotated[str, typer.Option(help="Of ours: auto, as finetune chooses, or sparse.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep the raw timings, for `report`.")
    ] = None,
) -> None:
    """Measure a step of fine-tuning beside dense PyTorch and masks: same batch, in turn, losses compared."""
    from pruneonce.bench.training import results
    from pruneonce.bench.training.run import TrainingBenchSettings, run_on_folder, run_on_random

    if (model is None) == (not random):
        raise UsageError("one model folder is expected, or --random bert-base")
    if json_file is not None:
        check_writable(json_file)
    settings = TrainingBenchSettings(grid, task, threads or available_cores(), rounds, dropout, kernel)
    with progress_bar("bench-train") as advance:
        if model is not None:
            record = run_on_folder(model, settings, advance)
        else:
            record = run_on_random(random, sparsity, settings, advance)
    for line in results.summary(record):
        terminal().print(line)
    for columns, rows in (
        (results.COLUMNS[1:], results.step_rows(record)),
        (results.share_columns([record])[1:], results.share_rows([record])),
    ):
        table = folding_table(*columns)
        for row in rows:
            table.add_row(*row[1:])
        terminal().print(table)
    if json_file is not None:
        write_json(json_file, record.as_json())
