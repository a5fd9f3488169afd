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

FLOPS_PER_WEIGHT = 8  # and token: a forward pass is 2, a backward pass 4; the teacher has no backward pass


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
    pruned_weights: int  # zeros among them counted
    peak_gflops: float | None  # multiply-adds in float32 that this machine does at most; None: not measured
    vector_steps: int  # that taught it the original's vectors of texts afterwards
    hidden_error: float  # of the pruned model on held-out text, mean over layers
    figures: dict[str, dict[str, float]]  # packed model -> what it answers differently (`comparison.compare`)
    scores: dict[str, dict[str, float]]  # model -> metrics on labelled examples, where there are some
    file_bytes: dict[str, int]
    timed_tokens: int  # of the text that engines are timed on
    timings: list[Timing]
    warnings: list[str]
    seconds: dict[str, float]  # of each step
    machine: dict[str, Any]

    @property
    def tokens_per_hour(self) -> float:
        """Read in training, measuring and mask updates included."""
        return 3600 * self.tokens / self.training_seconds if self.training_seconds else 0.0

    @property
    def training_gflops(self) -> float:
        """Of pruned matrices in training, were every weight multiplied: 2 for the teacher, 6 for the student."""
        return FLOPS_PER_WEIGHT * self.pruned_weights * self.tokens_per_hour / 3600 / 1e9


def markdown(report: CompressionReport) -> str:
    """The report as a page of Markdown."""
    names = list(report.figures)
    lines = [
        f"# {report.model.rstrip('/').rpartition('/')[2]}, {report.sparsity:.1%} zeros",
        "",
        f"Pruned ({report.pattern}) by matching the original on {report.tokens / 1e6:.1f} million tokens of text "
        f"without labels: {report.steps:,} steps in {report.training_seconds / 60:.0f} minutes, "
        f"{report.tokens_per_hour / 1e6:.1f} million tokens an hour.",
        *(
            [
                f"That is {report.training_gflops:.0f} GFLOP/s, were all weights multiplied; float32 multiply-adds "
                f"reach {report.peak_gflops:.0f} here at most."
            ]
            if report.peak_gflops
            else []
        ),
        *([f"Then {report.vector_steps:,} steps by the original's vectors of texts."] if report.vector_steps else []),
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
