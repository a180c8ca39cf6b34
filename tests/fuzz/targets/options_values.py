"""Option files as values: the shipped ones with wrong values, keys, types and places."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from kdsr_arch import registry
from kdsr_arch.errors import UserError
from kdsr_arch.options import load, load_yaml
from kdsr_arch.options.documents import apply_force
from kdsr_arch.options.yaml_reader import Document
from kdsr_arch.train.resume import fingerprint
from tests.fuzz.mutate import READABLE, json_mutator
from tests.fuzz.target import Target
from tests.helpers import ROOT
from tests.helpers.options import shipped_files

_KINDS = ("network", "loss", "data set", "metric", "model", "optimizer", "scheduler")


def _with_outputs(values: dict) -> dict:
    """Add the options that decide where files are written, so that they are changed often."""
    values.setdefault("val", {})["suffix"] = "mine"
    for key, dataset in values["datasets"].items():
        dataset.setdefault("name", f"set {key}")
    return values


@cache
def seeds() -> list[bytes]:
    """Return every shipped option file."""
    files = [ROOT / file for file in shipped_files() if file.parts[1] != "bench"]
    return [json.dumps(_with_outputs(load_yaml(file))).encode() for file in files]


@cache
def _words() -> tuple[str, ...]:
    """Return the keys and texts of all shipped files, and every registered name."""

    def texts(value: object) -> set[str]:
        if isinstance(value, dict):
            return {str(key) for key in value}.union(*map(texts, value.values()))
        if isinstance(value, list):
            return set().union(*map(texts, value))
        return {value} if isinstance(value, str) else set()

    known = set().union(*(texts(json.loads(data)) for data in seeds()))
    return tuple(sorted(known | {name for kind in _KINDS for name in registry.names(kind)}))


def run(data: bytes, folder: Path) -> None:
    """Check and complete the values as if they had been read from a file; outputs must stay in their folders."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError("cut off: not an input")
    document = Document(values, "options.yml")
    if len(data) % 8 == 0:
        apply_force(document, ["train:total_iter=7", "datasets:train:gt_size=[1]", "val.metrics.psnr.type=x"])
    testing = "train" not in values
    options = load.complete(document, is_train=not testing, path="options.yml", root=folder)
    if not testing:
        fingerprint(options)
    _stays(options.folder, folder)
    suffix = options.val.suffix if options.val else None
    for dataset in options.datasets.values():
        _stays(options.folder / str(dataset.name) / f"x_{suffix}.png", options.folder)


def _stays(place: Path, folder: Path) -> None:
    assert place.resolve().is_relative_to(folder.resolve()), f"{place} leaves {folder}"


TARGET = Target(
    "options_values",
    "option files, as values: the shipped ones with wrong keys, types and places",
    seeds,
    run,
    json_mutator(_words, READABLE),
    structured=1.0,
    max_len=40_000,
    share=8,
)
