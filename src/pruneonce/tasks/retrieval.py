"""How good an order of candidates is: nDCG@10, reciprocal rank, whether the first is right, how many are among many."""

from __future__ import annotations

import numpy as np

CUT = 10  # candidates of a query that count
RECALL_CUT = 100  # as a first stage hands on to a reranker
RANKING_METRICS = (f"ndcg@{CUT}", f"mrr@{CUT}", "accuracy@1")
RETRIEVAL_METRICS = (*RANKING_METRICS, f"recall@{RECALL_CUT}")


def retrieval_scores(scores: np.ndarray, relevance: np.ndarray) -> tuple[float, float, float, float]:
    """RETRIEVAL_METRICS of one query, each from 0 to 1. scores, relevance: [candidates], relevance from 0 on.

    Candidates of equal scores share their gains, and for rank and accuracy what is relevant comes last of them: a model
    that tells nothing apart gains nothing by the order of a file. A query without a relevant candidate scores 0.
    Source of nDCG, with linear gains: Järvelin & Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """
    best = -np.sort(-relevance.astype(np.float64))[:CUT]
    discounts = 1 / np.log2(np.arange(2, CUT + 2))
    ideal = float(best @ discounts[: len(best)])
    if not ideal:
        return 0.0, 0.0, 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    gains = relevance[order].astype(np.float64)
    _, group, counts = np.unique(-scores[order], return_inverse=True, return_counts=True)
    shared = (np.bincount(group, gains) / counts)[group][:CUT]
    right = relevance > 0
    wrong = np.sort(-scores[~right])
    ranks = np.arange(1, right.sum() + 1) + np.searchsorted(wrong, np.sort(-scores[right]), side="right")
    rank = int(ranks[0])
    return (
        float(shared @ discounts[: len(shared)]) / ideal,
        1 / rank if rank <= CUT else 0.0,
        float(rank == 1),
        float(np.mean(ranks <= RECALL_CUT)),
    )
