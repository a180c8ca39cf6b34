"""Compare the folders of two trainings."""

from __future__ import annotations

import json
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def unlike(one: Any, other: Any, where: str, close: dict[str, float] | None = None) -> list[str]:
    """Return the places where two nested containers differ; tensors bit for bit, or to `close` (rtol, atol)."""
    if type(one) is not type(other):
        return [f"{where}: {type(one).__name__}, {type(other).__name__}"]
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return [f"{where}: {tuple(one.shape)} {one.dtype}, {tuple(other.shape)} {other.dtype}"]
        same = torch.equal(one, other) or (close and torch.allclose(one, other, **close))
        return [] if same else [f"{where}: by {float((one.double() - other.double()).abs().max()):.3g}"]
    if isinstance(one, dict):
        if list(one) != list(other):
            return [f"{where}: keys {list(one)}, {list(other)}"]
        return [line for key in one for line in unlike(one[key], other[key], f"{where}.{key}", close)]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)}, {len(other)} entries"]
        return [line for i, pair in enumerate(zip(one, other, strict=True))
                for line in unlike(*pair, f"{where}[{i}]", close)]  # fmt: skip
    if close and isinstance(one, float):
        same = math.isclose(one, other, rel_tol=close["rtol"], abs_tol=close["atol"])
    else:
        same = one == other or (one != one and other != other)
    return [] if same else [f"{where}: {one!r:.60}, {other!r:.60}"]


def _outcome(root: Path, total: int) -> dict[str, Any]:
    """Read the outcome of a training: its last state, its last and best networks, its history."""
    state = torch.load(root / "training_states" / f"{total}.state", weights_only=True)
    state["fingerprint"].pop("~datasets.train")  # the number of workers
    names = sorted({path.name for path in (root / "models").glob("net_g_*[bl][ea]st*.pth")} | {f"net_g_{total}.pth"})
    networks = {name: torch.load(root / "models" / name, weights_only=True) for name in names}
    history = [json.loads(line) for line in (root / "history.jsonl").read_text().splitlines()]
    best = json.loads((root / "models" / "best.json").read_text())
    return {"state": state, "networks": networks, "history": history, "best": best}


def faults_of_files(root: Path) -> list[str]:
    """Return leftover temporary files, checkpoints beyond `keep_last`, networks without their state."""
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    parts = [f"{name} was left behind" for name in names if name.endswith(".tmp")]
    states = {name for name in names if re.fullmatch(r"training_states/\d+\.state", name)}
    networks = {name for name in names if re.fullmatch(r"models/net_g_\d+\.pth", name)}
    if {re.findall(r"\d+", n)[-1] for n in states} != {re.findall(r"\d+", n)[-1] for n in networks} or len(states) > 3:
        parts.append(f"numbered files: {sorted(states | networks)}")
    return parts


def differences(whole: Path, broken: Path, total: int, close: dict[str, float] | None = None) -> list[str]:
    """Return the differences between the folders of an unbroken and a broken training."""
    one, other = _outcome(whole, total), _outcome(broken, total)
    return unlike(one, other, "", close) + faults_of_files(broken)


def is_saving(root: Path) -> bool:
    """Return whether a temporary file is there: a save runs, or was killed."""
    names: list[str] = []
    for folder in ("models", "training_states"):
        with suppress(FileNotFoundError):
            names += os.listdir(root / folder)
    return any(name.endswith(".tmp") for name in names)
