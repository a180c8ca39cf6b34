"""Hostile and broken input, thrown at everything in KDSR that reads a file somebody else may have written.

``python -m tests.fuzz --target all --inputs 200000 --out benchmarks/results/fuzz.json`` is the recorded campaign; one
file in `tests.fuzz.targets` is one kind of input. `tests.fuzz.guard` says what counts as a finding.
"""
