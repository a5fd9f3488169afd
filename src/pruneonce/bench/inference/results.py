"""A benchmark's record as tables: on the terminal and in a report. Every figure follows from the raw seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.console import JustifyMethod
from rich.table import Table

from pruneonce.bench.inference.record import BASELINE, EMBEDDINGS, INT8_BASELINE, BenchRecord, Case
from pruneonce.bench.measure import paired_ratio
from pruneonce.convert.to_packed import DEFAULT_EMBEDDINGS

PROCESSES = (
    "Every engine has a process of its own, stopped in the turns of others; each round has its own order. The first "
    "call of a turn finds the caches as others left them. Memory is that of the process, Python and libraries too. "
    "Others' share is the processor time, of all cores, that anybody else took in the engine's turns of the whole run."
)
HEADER = """# Results
Every engine got the same inputs on the same threads in one run, called in turn. Ratios are those of
calls of one round, median and quartiles: above 1 the engine is slower than ours. Rivals pad a batch to its longest
sequence; tokens are real ones. Useful work is two operations per non-zero weight and token, and attention; the peak is
that of fp32 multiply-adds on registers, which 8-bit instructions exceed. The difference is the largest one between an
engine's outputs and PyTorch's in fp32. Engines called int8 compute with 8-bit weights and activations: pruneonce and
DeepSparse skip the zeros, the others are dense.
"""


def columns(record: BenchRecord) -> tuple[str, ...]:
    """Headings of `engine_rows`."""
    ratios = (column for baseline in record.ours for column in (f"time / {baseline}'s", "quartiles"))
    return "engine", "min ms", "median ms", *ratios, "tokens/s", "useful GFLOP/s", "share of peak", "difference"


def engine_rows(record: BenchRecord, case: Case) -> list[tuple[str, ...]]:
    """One row per engine, as in `columns`."""
    found: list[tuple[str, ...]] = []
    for name, seconds in case.seconds.items():
        median = case.median_seconds(name)
        rate = case.useful_flops / median / 1e9
        ratios: list[str] = []
        for baseline in record.ours:
            ratio = paired_ratio(seconds, case.seconds[baseline])
            quartiles = f"{ratio.lower:.2f} to {ratio.upper:.2f}"
            ratios += ["", ""] if name == baseline else [f"{ratio.median:.2f}", quartiles]
        found.append(
            (
                name,
                f"{min(seconds) * 1e3:.2f}",
                f"{median * 1e3:.2f}",
                *ratios,
                f"{case.tokens / median:,.0f}",
                f"{rate:.1f}",
                f"{rate / record.machine.peak_gflops:.0%}",
                f"{case.max_difference[name]:.1e}",
            )
        )
    return found


PROCESS_COLUMNS = ("engine", "first call ms", "memory MB", "same bits alone", "load s", "others' share")


def process_rows(record: BenchRecord, case: Case) -> list[tuple[str, ...]]:
    """One row per engine, as in PROCESS_COLUMNS; none of a record that does not know what was used."""
    if not record.used:
        return []
    found: list[tuple[str, ...]] = []
    for name in case.seconds:
        used, first = record.used[name], case.first_seconds.get(name)
        share = used.others / (used.wall * record.machine.cores)
        found.append(
            (
                name,
                f"{statistics.median(first) * 1e3:.2f}" if first else "–",
                f"{case.resident_bytes[name] / 1e6:.0f}",
                {True: "yes", False: "no", None: "–"}[case.same_bits.get(name)],
                f"{record.load_seconds[name]:.2f}" if name in record.load_seconds else "–",
                f"{share:.1%}",
            )
        )
    return found


def process_table(record: BenchRecord, case: Case) -> list[str]:
    """The same as Markdown, and what it says; [] where there are none."""
    rows = process_rows(record, case)
    if not rows:
        return []
    lines = ["| " + " | ".join(PROCESS_COLUMNS) + " |", "|---" + "|---:" * (len(PROCESS_COLUMNS) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), "", PROCESSES]


def absent_lines(record: BenchRecord) -> list[str]:
    """What has no row, and why."""
    return [f"{name}: {why}" for name, why in record.absent.items()]


def accuracy_lines(record: BenchRecord) -> list[str]:
    """Markdown table of every engine's metrics on the record's task; empty if it has none."""
    if not record.accuracy:
        return []
    names = list(next(iter(record.accuracy.values())))
    lines = ["| engine | " + " | ".join(names) + " |", "|---" + "|---:" * len(names) + "|"]
    return lines + [
        f"| {engine} | " + " | ".join(f"{values[name]:.4f}" for name in names) + " |"
        for engine, values in record.accuracy.items()
    ]


def limits(record: BenchRecord, case: Case) -> str:
    """What the machine allows at best for a case, by its measured speed."""
    machine, model = record.machine, record.model
    compute = case.useful_flops / machine.peak_gflops / 1e6
    memory = model.weight_bytes / machine.bandwidth_gb_per_s / 1e6
    return (
        f"useful work at the peak: {compute:.2f} ms; reading the non-zero weights once from memory: {memory:.2f} ms; "
        f"largest output {case.largest_output:.2g}"
    )


def summary(record: BenchRecord) -> list[str]:
    """Model, machine and conditions, a line each."""
    machine, model = record.machine, record.model
    versions = ", ".join(f"{name} {version}" for name, version in record.engines.items())
    others = ", ".join(f"{name} {record.versions[name]}" for name in ("python", "numpy", "transformers"))
    files = ", ".join(
        f"{name} {size / 1e6:.1f} MB with {EMBEDDINGS.get(name, 'other')} embeddings"
        for name, size in record.file_bytes.items()
    )
    return [
        f"{model.name}: {model.prunable:,} prunable weights, {model.sparsity:.2%} zeros",
        f"{machine.processor}, {' '.join(machine.isa)}, {machine.cores} cores, "
        f"{machine.memory_bytes / 2**30:.0f} GiB; {record.threads} threads",
        f"measured: {machine.peak_gflops:.0f} GFLOP/s fp32, {machine.bandwidth_gb_per_s:.1f} GB/s memory (copy)",
        f"{record.date}, load average {machine.load_average:.2f} before, {record.rounds} rounds, "
        f"{record.settle} untimed calls before each timed one, {record.inputs}",
        f"{versions}; {others}",
        *([f"packed file: {files} (export writes {DEFAULT_EMBEDDINGS})"] if files else []),
    ]


def mixed_lines(record: BenchRecord) -> list[str]:
    """What mixed lengths cost each engine: real tokens per second, beside a batch of one length and as many tokens."""
    lines = []
    for case in record.cases:
        if case.uniform:
            uniform = record.case(case.uniform)
            for engine in case.seconds:
                rates = [each.tokens / each.median_seconds(engine) for each in (case, uniform)]
                lines.append(
                    f"{engine}: {rates[0]:,.0f} tokens/s on {case.name} tokens, {rates[1]:,.0f} on "
                    f"{uniform.name}: {rates[0] / rates[1]:.0%}"
                )
    return lines


def tables(record: BenchRecord) -> Iterable[Table]:
    """Two per case, for a terminal of eighty columns: what each engine took (least times are for reports), and that
    beside ours.
    """
    heads = columns(record)
    beside = range(3, 3 + 2 * len(record.ours))  # ratios to each of ours, and their quartiles
    for case in record.cases:
        rows = engine_rows(record, case)
        for title, caption, chosen in (
            (case.name, limits(record, case), [0, *range(2, beside.start), *range(beside.stop, len(heads))]),
            (f"{case.name}, beside ours", None, [0, *beside]),
        ):
            table = Table(title=title, caption=caption)
            for at in chosen:
                head = heads[at].replace(f"{INT8_BASELINE}'s", "ours, int8")
                justify: JustifyMethod = "right" if at else "left"
                table.add_column(head, justify=justify, no_wrap=" " not in head, overflow="fold")
            for row in rows:
                table.add_row(*(row[at] for at in chosen))
            yield table


def overview(records: Sequence[BenchRecord]) -> list[str]:
    """Markdown table: every model and batch in one row, our times, and every rival's median ratio to ours.

    fp32 engines are compared with our fp32 one, int8 engines with our int8 one.
    """
    rivals = list(
        dict.fromkeys(
            name for record in records for name in record.cases[0].seconds if name not in (BASELINE, INT8_BASELINE)
        )
    )
    heads = (
        "model",
        "ours on",
        "batch",
        f"{BASELINE} ms",
        f"{INT8_BASELINE} ms",
        *(f"{name} / ours" for name in rivals),
    )
    lines = ["| " + " | ".join(heads) + " |", "|---|---|---" + "|---:" * (len(heads) - 3) + "|"]
    for record in records:
        model = record.model.name
        condition = f"{record.machine.native_isa}, {record.threads} thread{'s' * (record.threads > 1)}"
        for case in record.cases:
            seconds = case.seconds
            cells = [model, condition, case.name]
            cells += [_milliseconds(seconds.get(name)) for name in (BASELINE, INT8_BASELINE)]
            for name in rivals:
                ours = seconds.get(INT8_BASELINE if "int8" in name else BASELINE)
                theirs = seconds.get(name)
                cells.append(f"{paired_ratio(theirs, ours).median:.2f}" if theirs and ours else "")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _milliseconds(seconds: list[float] | None) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f}" if seconds else ""


def markdown(records: Sequence[BenchRecord]) -> str:
    """The page docs/results.md."""
    parts = [HEADER, "## All at a glance\n" + "\n".join(overview(records)) + "\n"]
    for record in records:
        title, *rest = summary(record)
        parts.append(f"## {title}\n" + "\n".join(f"- {line}" for line in rest) + "\n")
        for case in record.cases:
            heads = columns(record)
            lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
            lines += ["| " + " | ".join(row) + " |" for row in engine_rows(record, case)]
            parts.append(f"### {case.name}\n" + "\n".join(lines) + f"\n\n{limits(record, case)}\n")
            if processes := process_table(record, case):
                parts.append("\n".join(processes) + "\n")
        if accuracy := accuracy_lines(record):
            parts.append(f"### Answers to {record.task or 'a task'}\n" + "\n".join(accuracy) + "\n")
        if mixed := mixed_lines(record):
            parts.append("### Mixed lengths\n" + "\n".join(f"- {line}" for line in mixed) + "\n")
        if absent := absent_lines(record):
            parts.append("### Without a row\n" + "\n".join(f"- {line}" for line in absent) + "\n")
    return "\n".join(parts)
