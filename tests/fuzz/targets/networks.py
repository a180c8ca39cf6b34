"""Networks of option files: wrong keywords and values, as the dry run of `kdsr check` meets them; --network texts.

Sizes that no machine has are left out: a file may ask for a network of a billion layers, and is then given what it
asks for as long as the memory lasts.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.open import parsed_network
from kdsr_arch.registry import build
from tests.fuzz.mutate import mutate_tree, splice
from tests.fuzz.target import MIB, Target

_HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    5,
    0.0,
    0.5,
    -2.5,
    float("inf"),
    float("nan"),
    "",
    "x",
    "auto",
    "..",
    [],
    {},
    [0],
    [1, 2],
    [None],
    {"a": 1},
    [[1]],
    -(2**63),
)
_NETWORKS = (
    {"type": "FSRCNN", "scale": 2, "d": 8, "s": 4, "m": 1}, {"type": "EDSR", "num_feat": 8, "num_block": 1,
    "upscale": 2},
    {"type": "VESPCN", "num_feat": 8, "num_hr_feat": 8, "base": "bicubic"}, {"type": "CARN", "num_feat": 8},
    {"type": "IDN"}, {"type": "VDSR", "num_feat": 8, "num_block": 2}, {"type": "RCAN", "num_feat": 8, "num_group": 1,
    "num_block": 1, "upscale": 2}, {"type": "EDVR", "num_feat": 8, "num_frame": 3, "num_extract_block": 1,
    "num_reconstruct_block": 1, "deformable_groups": 2, "num_hr_feat": 8}, {"type": "VSRNet"}, {"type": "FastDVDnet"},
    {"type": "IMDN", "num_feat": 8}, {"type": "SAN", "num_feat": 8}, {"type": "MSRResNet", "num_feat": 8,
    "num_block": 1},
    {"type": "TDAN", "num_feat": 8, "num_block": 1, "deformable_groups": 2}, {"type": "RSDN", "num_feat": 8,
    "num_block": 1}, {"type": "PFNL", "num_feat": 8, "num_block": 1, "num_frame": 3}, {"type": "DRVSR", "num_feat": 8},
    {"type": "LTDVSRRebuild", "num_feat": 8},
)  # fmt: skip
_PIECES = (b"{", b"}", b"[", b"]", b": ", b", ", b"&a ", b"*a", b"!!python/name:os.system ", b"!!int x", b"~", b"'",
b'"',
           b"\x00", b"\n", b"- ", b"!!timestamp ", b"<<: ", b"1e9", b"..")  # fmt: skip


def seeds() -> list[bytes]:
    """Return small networks, as JSON."""
    return [json.dumps(network).encode() for network in _NETWORKS]


def mutate(data: bytes, rng: Random) -> bytes:
    """Change keywords and values, or the text."""
    try:
        spec = json.loads(data)
    except (ValueError, RecursionError):
        return splice(data, _PIECES, rng)
    if not isinstance(spec, dict) or rng.random() < 0.3:
        return splice(data, _PIECES, rng)
    words = ("scale", "upscale", "num_feat", "num_block", "num_frame", "num_in_ch", "type", "base", "form", "path")
    return json.dumps(mutate_tree(spec, rng, words, _HOSTILE)).encode()


def run(data: bytes, folder: Path) -> None:
    """Read the text as --network does, and build what it names, unless that is large."""
    spec = parsed_network(data.decode(errors="replace"))
    if any(isinstance(value, int | float) and abs(value) > 1000 for value in _scalars(spec)):
        return
    count_parameters(build("network", spec, "network_g"))


def _scalars(value: object) -> list[object]:
    if isinstance(value, dict | list):
        return [inner for part in (value.values() if isinstance(value, dict) else value) for inner in _scalars(part)]
    return [value]


TARGET = Target(
    "networks",
    "network_g and network_t of option files, --network texts",
    seeds,
    run,
    mutate,
    structured=1.0,
    memory=2048 * MIB,
    share=8,
)
