"""A compression's report: what changed, what it takes and how fast it is, as data and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What each figure says, as `comparison.compare` gives them.
FIGURES = {
    "state_error": "error of the last hidden states, relative squares",
    "cosine": "cosine of a text's vector and the original's, mean",
    "similarity_spearman": "likeness of all pairs of texts, Spearman with the original's",
    "neighbours": "of each text's 10 nearest, share that stays",
    "agreement": "answers that stay the same",
    "logits_pearson": "logits, Pearson with the original's",
    "score_spearman": "scores of pairs, Spearman with the original's",
    "span_overlap": "overlap (F1) of the spans",
}


@dataclass(frozen=True)
class Timing:
    """One text in one engine."""

    engine: str
    milliseconds: float  # median
    speedup: float  # over PyTorch, median of paired ratios


@dataclass(frozen=True)
class CompressionReport:
    """What `report.json` holds."""

    model: str
    sparsity: float  # zeros among the prunable weights, measured in the saved file
    pattern: str
    steps: int
    tokens: int  # read in training, about
    training_seconds: float
    hidden_error: float  # on held-out text, mean over layers
    figures: dict[str, dict[str, float]]  # packed model -> what it answers differently (`comparison.compare`)
    scores: dict[str, dict[str, float]]  # model -> metrics on labelled examples, where there are some
    file_bytes: dict[str, int]
    timed_tokens: int  # of the text that engines are timed on
    timings: list[Timing]
    warnings: list[str]
    seconds: dict[str, float]  # of each step
    machine: dict[str, Any]


def markdown(report: CompressionReport) -> str:
    """The report as a page of Markdown."""
    names = list(report.figures)
    lines = [
        f"# {report.model.rstrip('/').rpartition('/')[2]}, {report.sparsity:.1%} zeros",
        "",
        f"Pruned ({report.pattern}) by matching the original on {report.tokens / 1e6:.1f} million tokens of text "
        f"without labels: {report.steps:,} steps in {report.training_seconds / 60:.0f} minutes.",
        "",
        *(f"**Mind:** {warning}.\n" for warning in report.warnings),
        "## What it answers differently",
        "",
        "Beside the original, on text that was held out.",
        "",
        *_table(
            ["", *names],
            [
                [FIGURES[figure], *(f"{report.figures[name][figure]:.3f}" for name in names)]
                for figure in report.figures[names[0]]
            ],
        ),
    ]
    if report.scores:
        metrics = list(report.scores["original"])
        rows = [[name, *(f"{scores[metric]:.4f}" for metric in metrics)] for name, scores in report.scores.items()]
        lines += ["", "On the labelled examples:", "", *_table(["model", *metrics], rows)]
    lines += ["", "## Size and speed", ""]
    lines += _table(["file", "MB"], [[name, f"{size / 1e6:.1f}"] for name, size in report.file_bytes.items() if size])
    if report.timings:
        rows = [[each.engine, f"{each.milliseconds:.2f} ms", f"{each.speedup:.1f}×"] for each in report.timings]
        lines += [
            "",
            f"One text of {report.timed_tokens} tokens, engines called in turn; others take as long for zeros as for "
            "weights.",
            "",
        ]
        lines += _table(["engine", "time", "speed"], rows)
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    steps = ", ".join(f"{name} {value:.0f}" for name, value in report.seconds.items())
    lines += ["", f"{machine['processor']}, {machine['cores']} cores; {versions}. Seconds of each step: {steps}."]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
