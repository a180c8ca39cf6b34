"""Typed sections from the mappings that tests write, without an option file."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdsr_arch.distill.task import DistillTask
from kdsr_arch.evaluate.evaluator import Evaluator
from kdsr_arch.options.schema import MetricOptions, Options, Run, TeacherOptions, ValOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.options.schema_train import TrainOptions
from tests.helpers import ROOT

OPTIMIZER = {"type": "Adam", "lr": 1e-3}


def shipped_files() -> list[Path]:
    """The option files that git knows, not those that someone put beside them; all of them in an unpacked package."""
    if (ROOT / ".git").exists():
        words = ["git", "-C", str(ROOT), "ls-files", "-z", "options/*.yml"]
        names = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split("\0")
        return sorted(Path(name) for name in names if name)
    return sorted(path.relative_to(ROOT) for path in (ROOT / "options").rglob("*.yml"))


def train_options(values: Mapping[str, Any]) -> TrainOptions:
    """The section `train`: 10 iterations by Adam, where `values` do not say otherwise."""
    return TrainOptions.model_validate({"total_iter": 10, "optim_g": OPTIMIZER, **values})


def make_options(values: Mapping[str, Any], root: Path = Path()) -> Options:
    """Whole options for training; outputs go below `root`."""
    data = {"train": {"type": "ImagePairDataset", "batch_size_per_gpu": 1}}
    base = {"name": "t", "model_type": "ImageDistillModel", "num_gpu": 0, "datasets": data}
    opt = Options.model_validate({**base, **values})
    opt._run = Run(is_train=True, root=root)
    return opt


def make_task(
    student: nn.Module,
    teacher: Any,
    values: Mapping[str, Any],
    sample: Mapping[str, Any],
    scale: int = 2,
    **of_teacher: Any,
) -> DistillTask:
    """A task for the section `train` of `values`, tried on `sample`; keywords are those of the section `teacher`."""
    options = TeacherOptions(**of_teacher)
    return DistillTask(student, teacher, train_options(values), sample, scale=scale, teacher_options=options)


def dataset_options(**values: Any) -> DatasetOptions:
    """The options of a data set; `phase`, which data sets are told as well, is not one of them."""
    written = {key: value for key, value in values.items() if key != "phase"}
    return DatasetOptions.model_validate({"type": "ImagePairDataset", **written})


def metric_options(**values: Any) -> MetricOptions:
    """A metric and its keywords."""
    return MetricOptions.model_validate(values)


def evaluator(scale: int = 2, dataset: Mapping[str, Any] | None = None, **val: Any) -> Evaluator:
    """An evaluator of the data set 'set', with the options of `val`."""
    return Evaluator(dataset_options(**{"name": "set", **(dataset or {})}), ValOptions.model_validate(val), scale)
