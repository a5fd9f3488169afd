"""How good an order of candidates is: nDCG@10, reciprocal rank, and whether the first one is right."""

from __future__ import annotations

import numpy as np

CUT = 10  # candidates of a query that count
RETRIEVAL_METRICS = (f"ndcg@{CUT}", f"mrr@{CUT}", "accuracy@1")


def retrieval_scores(scores: np.ndarray, relevance: np.ndarray) -> tuple[float, float, float]:
    """RETRIEVAL_METRICS of one query, each from 0 to 1. scores, relevance: [candidates], relevance from 0 on.

    Candidates of equal scores share their gains, and for rank and accuracy what is relevant comes last of them: a model
    that tells nothing apart gains nothing by the order of a file. A query without a relevant candidate scores 0.
    Source of nDCG, with linear gains: Järvelin & Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """
    best = -np.sort(-relevance.astype(np.float64))[:CUT]
    discounts = 1 / np.log2(np.arange(2, CUT + 2))
    ideal = float(best @ discounts[: len(best)])
    if not ideal:
        return 0.0, 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    gains = relevance[order].astype(np.float64)
    _, group, counts = np.unique(-scores[order], return_inverse=True, return_counts=True)
    shared = (np.bincount(group, gains) / counts)[group][:CUT]
    right = relevance > 0
    rank = 1 + int(np.count_nonzero(scores[~right] >= scores[right].max()))
    return float(shared @ discounts[: len(shared)]) / ideal, 1 / rank if rank <= CUT else 0.0, float(rank == 1)
