"""Does the language matter? Compares, in pairs, the same sequences tracked with other sentences."""

import math
from collections.abc import Sequence

import numpy as np

from .protocols import PROTOCOLS

NUM_SAMPLES, BLOCK = 10_000, 250  # bootstrap samples in all, and drawn at once
MIN_SEQUENCES = 5  # for an interval


def paired_difference(
    a: np.ndarray, b: np.ndarray, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of a - b, and both ends of its 95 % interval: percentiles of a paired bootstrap over sequences.

    Args:
        a, b: (n,), scores of the same sequences in the same order.

    The same arguments give the same numbers. The interval is NaN for fewer than five sequences, for which a bootstrap
    is meaningless. Raises `ValueError` for arrays of other shapes, without elements, or with NaN.

    >>> paired_difference(np.full(5, 3.0), np.ones(5))
    (2.0, 2.0, 2.0)
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"Scores must be two arrays (n,) with n > 0; got {a.shape} and {b.shape}.")
    difference = a - b
    if np.isnan(difference).any():
        raise ValueError("Scores must not be NaN.")
    if len(difference) < MIN_SEQUENCES:
        return float(difference.mean()), math.nan, math.nan
    generator = np.random.default_rng(seed)
    means = np.empty(num_samples)
    for start in range(0, num_samples, BLOCK):
        size = min(BLOCK, num_samples - start)
        means[start : start + size] = difference[generator.integers(len(a), size=(size, len(a)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def language_table(results: Sequence) -> list[dict]:
    """The gain from each sequence's own sentence: one row for each of our results with other sentences.

    results: [`TrackerResult`]s. Each row has `text` (the other sentences), `metric` (the main one), `with` and
    `without` (percent with the own and with the other sentences, means over the sequences that both results have),
    `difference`, `low`, `high` (see [`paired_difference`]), `sequences` (their number), and `note`: why `with` differs
    from the overall score, where it does. Protocols that pool frames are compared by the AO of each sequence. There
    are no rows without results of both kinds.
    """
    own = next((result for result in results if result.text == "own"), None)
    rows = []
    for other in results:
        if own is None or other.text in (None, "own"):
            continue
        rules = PROTOCOLS[own.scores.protocol]
        metric = rules.metrics[0]
        pairs = [
            (scores[metric], other.scores.sequences[name][metric])
            for name, scores in own.scores.sequences.items()
            if name in other.scores.sequences
        ]
        values = np.array([pair for pair in pairs if np.isfinite(pair).all()]).reshape(-1, 2)
        if not len(values):
            continue
        difference, low, high = paired_difference(values[:, 0], values[:, 1])
        means = values.mean(axis=0)
        note = ""
        if rules.pooled:
            note = f"{metric.upper()} of each sequence, averaged; the overall score takes all frames at once"
        elif not np.allclose(means, [own.scores[metric], other.scores[metric]], atol=1e-6):
            note = "mean over all sequences that both have; the overall score leaves some out"
        row = {"text": other.text, "metric": metric, "with": float(means[0]), "without": float(means[1])}
        rows.append(
            {**row, "difference": difference, "low": low, "high": high, "sequences": len(values), "note": note}
        )
    return rows
