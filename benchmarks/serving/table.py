"""The record as the tables of docs/serving.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruneonce.files import write_part

BEGIN, END = "<!-- written by benchmarks/serving/run.py -->\n", "<!-- end of what it writes -->"
SPARSE, DENSE = "pruneonce 90 % zeros, int8", "pruneonce dense int8"
INT8_RIVALS = "int8"  # in the name of those that compute with the same dense model in 8 bits


def write_page(page: Path, record: dict[str, Any]) -> None:
    write_part(page, BEGIN, "\n".join(lines(record)) + "\n", END)


def lines(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    lengths = record["lengths"]
    texts = [
        f"{machine['processor']}, {record['threads']} threads on {machine['cores']} cores, which server and client "
        f"share; {record['date']}, pruneonce {record['versions']['pruneonce']}.",
        f"MiniLM-L6, texts of {record['mean_tokens']:.0f} tokens on average with the lengths of SQuAD's, one each, "
        "by OpenAI's route in base64.",
        f"Every server is a process of its own, stopped while another is measured; {lengths['rounds']} rounds of "
        f"{lengths['seconds']:g} s in shuffled order, median (least to most).",
        "",
        *_targets(record),
        "",
        *_throughputs(record),
        "",
        _others(record),
    ]
    if record.get("absent"):
        texts += ["", "Did not start: " + "; ".join(f"{name} ({why})" for name, why in record["absent"].items()) + "."]
    return texts


def _targets(record: dict[str, Any]) -> list[str]:
    rows = ["| case | target | measured |", "|---|---|---|"]

    def row(case: str, target: str, measured: str) -> None:
        rows.append(f"| {case} | {target} | {measured} |")

    def ratio(name: str, other: Sequence[dict[str, Any]]) -> str:
        pairs = [
            a["texts_per_second"] / b["texts_per_second"]
            for a, b in zip(record["throughput"][name], other, strict=True)
        ]
        return _spread(pairs, 2)

    for name in (SPARSE, DENSE):
        percent = [
            100 * a["texts_per_second"] / b["texts_per_second"]
            for a, b in zip(record["throughput"][name], record["offline"][name], strict=True)
        ]
        row(f"32 clients beside the offline pipeline, {_short(name)}", "≥ 85 %", f"{_spread(percent, 0)} %")
    best = best_rival(record)
    if best:
        for name, target in ((SPARSE, "≥ 3×"), (DENSE, "≥ 1.2×")):
            row(f"{_short(name)} beside {best}", target, f"{ratio(name, record['throughput'][best])}×")
    for name, found in record.get("latency", {}).items():
        times = found["times_alone"]
        row(
            f"p50 / p99 at 60 % of capacity, {_short(name)}",
            "≤ 2× / ≤ 6× the text alone",
            f"{times['p50']:.2f}× / {times['p99']:.2f}× ({found['rate']:.0f} texts/s, "
            f"{found['loaded']['latency_ms']['p50']:.1f} / {found['loaded']['latency_ms']['p99']:.1f} ms)",
        )
    if "overload" in record:
        row(*_overload(record))
    if "crowd" in record:
        with_, without = (
            statistics.median(each["texts_per_second"] for each in record["crowd"][kind])
            for kind in ("with", "without")
        )
        least = min(record["crowd"]["open"])
        row(f"{least:,} or more idle or trickling connections", "goodput ≥ 90 %", f"{100 * with_ / without:.0f} %")
    starts = record.get("start_seconds", {})
    if starts:
        row(
            "start to ready, " + " / ".join(starts),
            "≤ 1 s / ≤ 3 s",
            " / ".join(f"{statistics.median(each):.2f} s" for each in starts.values()),
        )
    bits = record.get("bits", {})
    if bits:
        right, asked = (sum(each[kind][place] for each in bits.values() for kind in each) for place in (0, 1))
        row("same bits as offline, alone and in company", "all", f"{right:,} of {asked:,} answers")
    return rows


def _overload(record: dict[str, Any]) -> tuple[str, str, str]:
    found, lengths = record["overload"], record["lengths"]
    statuses = found["statuses"]
    others = sorted(set(statuses) - {"200", "429"})
    seconds, resident = found["processor_seconds"], found["resident"]
    growth = 100 * (resident["most"] - resident["least"]) / resident["least"]
    client = 100 * seconds["client"] / (record["threads"] * found["wall_seconds"])
    return (
        f"4× overload for {lengths['overload_seconds']:.0f} s",
        "goodput ≥ 95 % of capacity, none wrong or lost, the rest 429, memory ± 5 %",
        f"{100 * found['texts_per_second'] / found['capacity']:.0f} % ({statuses.get('200', 0):,} × 200, "
        f"{statuses.get('429', 0):,} × 429, {sum(statuses[each] for each in others):,} other, {found['changed']} "
        f"wrong, {found['lost']} lost); p99 of the admitted {found['latency_ms']['p99']:,.0f} ms; memory "
        f"{growth:.1f} % between least and most; the client took {client:.0f} % of the cores",
    )


def best_rival(record: dict[str, Any]) -> str | None:
    """Of those that compute the same dense MiniLM in int8."""
    rivals = [name for name in record["throughput"] if "pruneonce" not in name and INT8_RIVALS in name]
    return max(rivals, key=lambda name: _median(record["throughput"][name]), default=None)


def _throughputs(record: dict[str, Any]) -> list[str]:
    rows = [
        "| server | texts/s | p50 / p99 ms | beside our dense int8 | client's share of the cores | memory | cosine |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    reference = _median(record["throughput"][DENSE])
    for name in sorted(record["throughput"], key=lambda each: -_median(record["throughput"][each])):
        found = record["throughput"][name]
        latencies = [statistics.median(each["latency_ms"][percent] for each in found) for percent in ("p50", "p99")]
        client = [
            100 * each["processor_seconds"]["client"] / (record["threads"] * each["wall_seconds"]) for each in found
        ]
        rows.append(
            f"| {name} | {_spread([each['texts_per_second'] for each in found], 0)} | "
            f"{latencies[0]:.0f} / {latencies[1]:.0f} | {_median(found) / reference:.2f}× | "
            f"{statistics.median(client):.0f} % | {max(each['resident_bytes'] for each in found) / 1e6:.0f} MB | "
            f"{record['cosine'][name]:.3f} |"
        )
    if "replicas" in record:
        found = record["replicas"]
        name = f"{found['count']} × {SPARSE}, a thread each"
        middle = statistics.median(found["texts_per_second"]) / reference
        rows.append(f"| {name} | {_spread(found['texts_per_second'], 0)} | | {middle:.2f}× | | | |")
    for name, found in record["offline"].items():
        spread = _spread([each["texts_per_second"] for each in found], 0)
        rows.append(f"| {name}, offline | {spread} | | {_median(found) / reference:.2f}× | | | |")
    return [
        *rows,
        "",
        "Cosine is the mean likeness of a server's vectors and those of our float32 file. The zeros of the 90 % file "
        "are those of least magnitude, untrained: it is there for its time alone.",
    ]


def _others(record: dict[str, Any]) -> str:
    """Whether somebody else computed in the timed windows."""
    shares = []
    for group in (*record["throughput"].values(), *record["offline"].values()):
        for each in group:
            if each["processor_seconds"]["others"] is not None:
                shares.append(100 * each["processor_seconds"]["others"] / (record["threads"] * each["wall_seconds"]))
    if not shares:
        return "Who else used the processor is not known."
    return (
        f"Processes that are neither server nor client used {statistics.median(shares):.1f} % of the cores in the "
        f"timed windows (median; at most {max(shares):.1f} %)."
    )


def _median(found: Sequence[dict[str, Any]]) -> float:
    return statistics.median(each["texts_per_second"] for each in found)


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _short(name: str) -> str:
    return name.removeprefix("pruneonce ")
