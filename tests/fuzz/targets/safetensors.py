"""Files of safetensors: the header gives each tensor's place, and may lie."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from random import Random

from kdsr_arch.infer.open import read_metadata, read_weights
from kdsr_arch.io import load_tensors, read_safetensors
from tests.fuzz.mutate import mutate_bytes, mutate_tree
from tests.fuzz.target import Target

_WORDS = (
    "F32",
    "F16",
    "BF16",
    "I64",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F4",
    "C64",
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    "format",
    "kdsr",
    "kdsr_groups",
    "kdsr_sha256",
    "params.a",
)


def _file(header: object, data: bytes = bytes(24)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@cache
def seeds() -> list[bytes]:
    """Return a state dict, a training's groups, and headers that lie."""
    tensor = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    facts = {"format": "pt", "kdsr": json.dumps({"network": {"type": "FSRCNN"}, "scale": 2})}
    return [
        _file({"params.a": tensor, "__metadata__": {"format": "pt", "kdsr_groups": '["params"]'}}),
        _file({"a": tensor}),
        _file({"a": tensor, "__metadata__": facts}), _file({"a": {**tensor, "shape": [2**31, 2**31]}}),
        _file({"a": {**tensor, "data_offsets": [0, 2**60]}}), struct.pack("<Q", 2**63) + b"{", struct.pack("<Q", 10**8),
        _file({"a": tensor, "b": tensor}), _file({"a": {**tensor, "shape": [0], "data_offsets": [0, 0]}}, b""), b"",
        _file({"a": tensor, "__metadata__": {"kdsr_groups": "[" * 5000}}),
    ]  # fmt: skip


def mutate(data: bytes, rng: Random) -> bytes:
    """Change values of the header and correct its length, or sometimes change the tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng)
    if rng.random() < 0.1:
        return data[: 8 + length] + mutate_bytes(data[8 + length :], rng)
    return _file(mutate_tree(header, rng, _WORDS), data[8 + length :])


def run(data: bytes, folder: Path) -> None:
    """Read it as weights, and read its metadata."""
    file = folder / "net_g_1.safetensors"
    file.write_bytes(data)
    tensors, facts = read_safetensors(file)
    read_metadata(facts, file)
    load_tensors(file)
    read_weights(file, ("params", None)[len(data) % 2])
    assert all(isinstance(name, str) for name in tensors)


TARGET = Target("safetensors", "safetensors files: header, metadata, tensors", seeds, run, mutate, share=25)
