"""Metrics of sample quality: features, distances, coverage, and the evaluation that combines them."""
