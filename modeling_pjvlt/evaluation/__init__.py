"""Metrics of single-object tracking, the protocols of the benchmarks, and evaluations that use them."""

from pathlib import Path

from .protocols import PROTOCOLS, BenchmarkScores, score_benchmark

METRIC = str(Path(__file__).parent / "tracking_scores")  # for `evaluate.load`

__all__ = ["METRIC", "PROTOCOLS", "BenchmarkScores", "score_benchmark"]
