"""Hostile and broken input, thrown at everything in KDSR that reads a file somebody else may have written.

``python -m fuzz --target all --inputs 200000 --out benchmarks/results/fuzz.json`` is the recorded campaign; one file in
`fuzz.targets` is one kind of input. What counts as a finding is said in `fuzz.guard`.
"""
