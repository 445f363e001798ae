"""Measurements, each a command that writes its figures with their provenance to benchmarks/results/."""
