"""What a step of pruning costs: as it was without masks, with masks, and multiplying the kept weights alone.

    python benchmarks/bench_masks.py [--model FOLDER | --random bert-base] [--precision fp32] [--steps 10] [--json]

At 90 % zeros, on one batch, in turns. Prints medians, and the median and quartiles of the paired ratios to the masked
step; beside them the forward pass of a teacher of the same shape. The model defaults to the quickstart's MiniLM.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import time
from typing import Any

import torch

from pruneonce.bench.inference.subject import SHAPES
from pruneonce.data.assets import fetch_assets
from pruneonce.models.hub import config_for, quiet_transformers, random_hub_model
from pruneonce.sparsity.cpu_training import CpuTraining
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.schedules import PruningSchedule
from pruneonce.train.language_model import LanguageModel, load_language_model, pretraining_class

BATCH, TOKENS, SPARSITY = 16, 128, 0.9
MASKED_TOKENS = round(0.15 * BATCH * TOKENS)
SIDES = ("plain", "masked", "kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--random", choices=sorted(SHAPES), help="a known shape with random weights")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of dense products")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quiet_transformers()
    result = measure(arguments.model, arguments.random, arguments.precision, arguments.steps)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"step of {result['batch']}, {result['precision']}, {result['threads']} threads, {arguments.steps} rounds")
    for side in SIDES:
        low, high = result["ratio_quartiles"][side]
        ratio = f"masked / it {result['ratio_median'][side]:.2f} ({low:.2f} to {high:.2f})"
        print(f"  {side:<8}{result['milliseconds'][side]:9.1f} ms   {ratio if side != 'masked' else ''}")
    print(f"  teacher {result['teacher_milliseconds']:9.1f} ms, a forward pass")
    print(f"  masks   {result['update_milliseconds']:9.1f} ms, every frequency_steps; kept: the patterns too")


def measure(folder: str | None, shape: str | None, precision: str, steps: int) -> dict[str, Any]:
    """Every side's steps in turn; ratios are the masked step's time over the side's."""
    autocast = torch.bfloat16 if precision == "bf16" else None
    models = {"plain": load(folder, shape)}
    models |= {side: copy.deepcopy(models["plain"]) for side in SIDES[1:]}
    at_once = PruningSchedule.one_shot(SPARSITY)
    pruners = {side: Pruner(models[side].model, prunable(models[side]), at_once) for side in SIDES[1:]}
    vocabulary = int(models["plain"].config.vocab_size)
    inputs = {
        "input_ids": torch.randint(min(1000, vocabulary // 2), vocabulary, (BATCH, TOKENS)),
        "attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.int64),
        "token_type_ids": torch.zeros(BATCH, TOKENS, dtype=torch.int64),
        "positions": torch.arange(MASKED_TOKENS),
    }
    with CpuTraining(models["kept"].model, pruners["kept"], "sparse", autocast):
        pruners["masked"].update(0)
        begun = time.perf_counter()
        pruners["kept"].update(0)
        update_seconds = time.perf_counter() - begun
        optimizers = {
            side: torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True) for side, model in models.items()
        }
        for side in SIDES:
            step(models[side], optimizers[side], inputs, autocast)  # warm-up
        rounds = [
            {side: step(models[side], optimizers[side], inputs, autocast) for side in SIDES} for _ in range(steps)
        ]
        teacher = statistics.median(answer(models["plain"], inputs, autocast) for _ in range(steps))
    ratios = {side: [each["masked"] / each[side] for each in rounds] for side in SIDES}
    return {
        "model": shape or folder or "MiniLM",
        "batch": f"{BATCH}x{TOKENS}",
        "precision": precision,
        "threads": torch.get_num_threads(),
        "milliseconds": {side: 1e3 * statistics.median(each[side] for each in rounds) for side in SIDES},
        "ratio_median": {side: statistics.median(values) for side, values in ratios.items()},
        "ratio_quartiles": {side: quartiles(values) for side, values in ratios.items()},
        "teacher_milliseconds": 1e3 * teacher,
        "update_milliseconds": 1e3 * update_seconds,
    }


def load(folder: str | None, shape: str | None) -> LanguageModel:
    """A language model with fresh heads where it has none, without dropout."""
    if shape is not None:
        family, sizes = SHAPES[shape]
        config, nsp = config_for(family, family.config_of(sizes)), family.heads.next_sentence is not None
        model = LanguageModel(random_hub_model(pretraining_class(nsp=nsp), config), nsp=nsp)
    else:
        model, _ = load_language_model(folder or fetch_assets().model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def prunable(model: LanguageModel) -> list[str]:
    linears = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
    return model.family.prunable_linears(linears)


def step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    inputs: dict[str, torch.Tensor],
    autocast: torch.dtype | None,
) -> float:
    """Seconds of one optimizer step on masked-LM and next-sentence logits."""
    begun = time.perf_counter()
    with precision_of(autocast):
        loss = sum(value.float().logsumexp(dim=-1).mean() for value in model(**inputs).values())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begun


@torch.no_grad()
def answer(model: LanguageModel, inputs: dict[str, torch.Tensor], autocast: torch.dtype | None) -> float:
    """Seconds of a forward pass."""
    begun = time.perf_counter()
    with precision_of(autocast):
        model(**inputs)
    return time.perf_counter() - begun


def precision_of(autocast: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if autocast is None else torch.autocast("cpu", autocast)


def quartiles(values: list[float]) -> tuple[float, float]:
    found = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return found[0], found[-1]


if __name__ == "__main__":
    main()
