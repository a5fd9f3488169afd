"""Scores of pre-training: of a language model on held-out text, and of hidden states that are matched."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pruneonce.evaluation.packed import EVALUATION_BATCH
from pruneonce.progress import Advance
from pruneonce.train.batching import ExampleKey
from pruneonce.train.language_model import LanguageModel
from pruneonce.train.losses import IGNORED
from pruneonce.train.objectives import HiddenStatesObjective, PretrainingObjective


@torch.no_grad()
def evaluate_language_model(
    model: LanguageModel, objective: PretrainingObjective, *, examples: int, on_progress: Advance | None = None
) -> dict[str, float]:
    """Masked-LM loss, accuracy and perplexity, and next-sentence loss and accuracy where the model has that head.

    objective: over the validation split; its masked tokens are a function of its seed, so that two models are asked
    the same questions. examples: how many to use, evenly spaced. Perplexity is of the masked LM alone.
    """
    model.eval()
    chosen = _spread(objective.lengths(), examples)
    device = next(model.parameters()).device
    sums = dict.fromkeys(("mlm_loss", "mlm_right", "mlm_targets", "nsp_loss", "nsp_right", "examples"), 0.0)
    for begin in range(0, len(chosen), EVALUATION_BATCH):
        keys = [ExampleKey(int(index), 0, 0) for index in chosen[begin : begin + EVALUATION_BATCH]]
        batch = {name: value.to(device) for name, value in objective.collate(keys).items()}
        wanted = batch["mlm_labels"] != IGNORED
        labels = batch["mlm_labels"][wanted]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        logits = model(**inputs, positions=batch["positions"][wanted])
        sums["mlm_loss"] += float(functional.cross_entropy(logits["mlm"], labels, reduction="sum"))
        sums["mlm_right"] += float((logits["mlm"].argmax(-1) == labels).sum())
        sums["mlm_targets"] += labels.numel()
        sums["examples"] += len(keys)
        if model.nsp:
            nsp_labels = batch["nsp_labels"]
            sums["nsp_loss"] += float(functional.cross_entropy(logits["nsp"], nsp_labels, reduction="sum"))
            sums["nsp_right"] += float((logits["nsp"].argmax(-1) == nsp_labels).sum())
        if on_progress is not None:
            on_progress(begin + len(keys), len(chosen))
    targets, rows = max(sums["mlm_targets"], 1), max(sums["examples"], 1)
    metrics = {"mlm_loss": sums["mlm_loss"] / targets, "mlm_accuracy": sums["mlm_right"] / targets}
    metrics["perplexity"] = math.exp(min(metrics["mlm_loss"], 700.0))
    if model.nsp:
        metrics |= {"nsp_loss": sums["nsp_loss"] / rows, "nsp_accuracy": sums["nsp_right"] / rows}
    return metrics


@torch.no_grad()
def evaluate_hidden_states(
    model: nn.Module, objective: HiddenStatesObjective, *, examples: int, on_progress: Advance | None = None
) -> dict[str, float]:
    """Relative squared error of the hidden states that the objective matches, and that of each layer by its number.

    objective: over the validation split. examples: how many to use, evenly spaced.
    """
    model.eval()
    (term,) = objective.terms
    chosen = _spread(objective.lengths(), examples)
    device = next(model.parameters()).device
    squares, norms = np.float64(0), np.float64(0)
    for begin in range(0, len(chosen), EVALUATION_BATCH):
        keys = [ExampleKey(int(index), 0, 0) for index in chosen[begin : begin + EVALUATION_BATCH]]
        batch = objective.taught({name: value.to(device) for name, value in objective.collate(keys).items()})
        squares = squares + term.squares(objective.answer(model, batch), batch["answer"]).double().cpu().numpy()
        norms = norms + objective.counts(batch).numpy()
        if on_progress is not None:
            on_progress(begin + len(keys), len(chosen))
    errors = np.atleast_1d(squares / np.maximum(norms, np.finfo(np.float32).tiny))
    layers = objective.layers or range(1, len(errors) + 1)
    return {"hidden_error": float(errors.mean())} | {
        f"hidden_error_{layer}": float(error) for layer, error in zip(layers, errors, strict=True)
    }


def _spread(lengths: np.ndarray, examples: int) -> np.ndarray:
    """`examples` of the indices, evenly spaced, shortest first."""
    chosen = np.unique(np.linspace(0, len(lengths) - 1, min(examples, len(lengths))).astype(np.int64))
    return chosen[np.argsort(lengths[chosen], kind="stable")]
