"""Metrics of single-object tracking, and evaluations that use them."""
