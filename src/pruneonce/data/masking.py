"""Masked-LM corruption of one example, as a pure function of its tokens and a random generator."""

from __future__ import annotations

import numpy as np


def mask_tokens(
    input_ids: np.ndarray,
    *,
    maskable: np.ndarray,
    mask_id: int,
    vocab_size: int,
    rng: np.random.Generator,
    probability: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide some tokens: of the chosen 80 % become [MASK], 10 % a random token, 10 % stay as they are.

    input_ids: int64 [tokens]; maskable: bool [tokens], False at special tokens. Each maskable token is chosen
    independently with `probability`; at least one is, if there is any, so that no example is without a target.
    Returns (corrupted int64 [tokens], chosen bool [tokens]); targets are `input_ids[chosen]`.
    Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1.
    """
    chosen = (rng.random(input_ids.size) < probability) & maskable
    candidates = np.flatnonzero(maskable)
    if not chosen.any() and candidates.size:
        chosen[rng.choice(candidates)] = True
    action = rng.random(input_ids.size)
    corrupted = np.where(chosen & (action < 0.8), mask_id, input_ids)
    random_ids = rng.integers(vocab_size, size=input_ids.size)
    corrupted = np.where(chosen & (action >= 0.9), random_ids, corrupted)
    return corrupted, chosen


def distilled_positions(chosen: np.ndarray, *, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which tokens the teacher's vocabulary distribution is matched at: bool [tokens].

    share: fraction of all real tokens, special ones included, in (0, 1]; 1 is the original's "all non-padding
    tokens". Below 1 the masked tokens come first, since their logits are computed for the hard loss anyway and a
    visible token's distribution says little more than the token; the rest are drawn at random.
    """
    wanted = round(share * chosen.size)
    others = np.flatnonzero(~chosen)
    extra = min(max(wanted - int(chosen.sum()), 0), others.size)
    positions = chosen.copy()
    positions[rng.permutation(others)[:extra]] = True
    return positions
