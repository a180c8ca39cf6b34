"""The teacher of an experiment: one network, several as one, or a store of what it made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdsr_arch.distill.cached import CachedTeacher
from kdsr_arch.distill.ensemble import Ensemble
from kdsr_arch.errors import UserError
from kdsr_arch.infer.networks import build_network, load_pretrained


def teacher_keys(opt: Mapping[str, Any]) -> list[str]:
    """'network_t', 'network_t2', ... as far as the options name them."""
    return sorted(key for key, value in opt.items() if re.fullmatch(r"network_t\d*", str(key)) and value)


def build_teacher(opt: Mapping[str, Any]) -> nn.Module | None:
    """The live teacher: `network_t`, together with `network_t2` and further ones as an :class:`Ensemble`.

    Members are named t, t2, ...; weights come from `path.pretrain_network_t`, `path.pretrain_network_t2`, ... unless
    the network brings its own (type spandrel).

    Raises:
        UserError: a network that cannot be built, or without trained weights.
    """
    members = {key.removeprefix("network_"): _trained(opt, key) for key in teacher_keys(opt)}
    if len(members) < 2:
        return next(iter(members.values()), None)
    for net in members.values():
        net.eval()
    return Ensemble(members, opt.get("scale"))


def _trained(opt: Mapping[str, Any], key: str) -> nn.Module:
    label = key.removeprefix("network_")
    teacher = build_network(opt[key], key)
    if not load_pretrained(teacher, opt["path"], label) and not getattr(teacher, "pretrained", False):
        raise UserError(
            f"path.pretrain_network_{label}: missing; a teacher without trained weights has nothing to teach"
        )
    return teacher


def weights_digests(opt: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each teacher's file of weights, by its key ('network_t', ...); missing files are left out."""
    files = {key: (opt.get("path") or {}).get(f"pretrain_{key}") or opt[key].get("path") for key in teacher_keys(opt)}
    found = {key: Path(file).expanduser() for key, file in files.items() if isinstance(file, str)}
    return {key: hashlib.sha256(file.read_bytes()).hexdigest() for key, file in found.items() if file.is_file()}


def stored_teacher(opt: Mapping[str, Any]) -> CachedTeacher | None:
    """The store that `datasets.train.teacher_cache` names, in place of the live teacher.

    Raises:
        UserError: it is none, or was made by another teacher than the options name, or by one with other weights.
    """
    path = ((opt.get("datasets") or {}).get("train") or {}).get("teacher_cache")
    if not path:
        return None
    teacher = CachedTeacher(path)
    made_by = teacher.store.info["teacher"]
    named = {key: opt[key] for key in teacher_keys(opt)}
    changed = [key for key in named if named[key] != made_by.get(key)] or sorted(set(made_by) - set(named))
    if named and changed:
        raise UserError(
            f"{path}: was made by another teacher ({changed[0]} differs); make it again with "
            "kdsr cache-teacher, or take datasets.train.teacher_cache out"
        )
    digests = teacher.store.info.get("weights") or {}  # none in a store of an earlier version
    for key, digest in weights_digests(opt).items() if digests else ():
        if digests.get(key, digest) != digest:
            raise UserError(
                f"{path}: was made with other weights than path.pretrain_{key} has now; remove it and make it again "
                "with kdsr cache-teacher, or take datasets.train.teacher_cache out"
            )
    return teacher
