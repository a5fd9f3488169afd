"""What masks cost: optimizer steps of the quickstart model with and without them, in turns, on the same batch.

    python benchmarks/bench_masks.py [--model FOLDER] [--steps 10] [--json]

Prints the median and the quartiles of the paired ratios. The model defaults to the quickstart's MiniLM.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time

import torch

from pruneonce.architectures import prunable_linears
from pruneonce.assets import fetch_assets
from pruneonce.language_model import LanguageModel, load_language_model, quiet_transformers
from pruneonce.pruning.pruner import Pruner
from pruneonce.pruning.schedules import PruningSchedule

BATCH, TOKENS = 16, 128
MASKED_TOKENS = round(0.15 * BATCH * TOKENS)


def step(model: LanguageModel, optimizer: torch.optim.Optimizer, inputs: dict[str, torch.Tensor]) -> float:
    """Seconds of one optimizer step on masked-LM and next-sentence logits."""
    begun = time.perf_counter()
    logits = model(**inputs)
    loss = sum(value.logsumexp(dim=-1).mean() for value in logits.values())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quiet_transformers()
    plain, _ = load_language_model(arguments.model or fetch_assets().model)
    masked = copy.deepcopy(plain)
    linears = [name for name, module in masked.model.named_modules() if isinstance(module, torch.nn.Linear)]
    schedule = PruningSchedule(0.9, begin_step=0, end_step=2, policy_begin_step=0, policy_end_step=1, frequency_steps=1)
    pruner = Pruner(masked.model, prunable_linears(linears, masked.architecture), schedule)
    begun = time.perf_counter()
    pruner.update(2)
    update_seconds = time.perf_counter() - begun

    inputs = {
        "input_ids": torch.randint(1000, plain.config.vocab_size, (BATCH, TOKENS)),
        "attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.int64),
        "token_type_ids": torch.zeros(BATCH, TOKENS, dtype=torch.int64),
        "positions": torch.arange(MASKED_TOKENS),
    }
    sides = [(model.train(), torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)) for model in (plain, masked)]
    for side in sides:
        step(*side, inputs)  # warm-up
    times = [[step(*side, inputs) for side in sides] for _ in range(arguments.steps)]
    ratios = sorted(masked_time / plain_time for plain_time, masked_time in times)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    result = {
        "batch": f"{BATCH}x{TOKENS}",
        "threads": torch.get_num_threads(),
        "plain_seconds": statistics.median(plain_time for plain_time, _ in times),
        "masked_seconds": statistics.median(masked_time for _, masked_time in times),
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[-1]],
        "mask_update_seconds": update_seconds,
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"step of {result['batch']} on {result['threads']} threads, {arguments.steps} pairs")
    print(f"  without masks  {result['plain_seconds'] * 1e3:8.1f} ms")
    print(f"  with masks     {result['masked_seconds'] * 1e3:8.1f} ms")
    print(f"  ratio          {result['ratio_median']:8.3f}  (quartiles {quartiles[0]:.3f} to {quartiles[-1]:.3f})")
    print(f"  mask update    {result['mask_update_seconds'] * 1e3:8.1f} ms, every frequency_steps")


if __name__ == "__main__":
    main()
