"""Benchmarks: ``python -m benchmarks.NAME`` measures one figure and records it in benchmarks/results."""
