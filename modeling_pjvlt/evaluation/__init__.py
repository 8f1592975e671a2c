"""Metrics of single-object tracking, the protocols of the benchmarks, and evaluations that use them."""

from .protocols import PROTOCOLS, BenchmarkScores, score_benchmark

__all__ = ["PROTOCOLS", "BenchmarkScores", "score_benchmark"]
