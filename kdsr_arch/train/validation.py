"""Validation during training: every `val` data set, and the record of the best."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.pair_dataset import PairDataset
from kdsr_arch.errors import ProgramFault, UserError, first_line
from kdsr_arch.evaluate.evaluator import EvalResult, Evaluator
from kdsr_arch.evaluate.items import read_sample
from kdsr_arch.metrics.measure import lower_is_better
from kdsr_arch.options.schema import Options, ValOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import is_basicsr

_TRIED = 8  # frames of a clip that a first look takes


@dataclass
class Best:
    """The best value of each metric on each data set: {data set: {metric: {value, iter}}}.

    Beside it, for `logger.keep_best`, the best validations by a metric of the first data set with a ground truth, best
    first: {metric: [{value, iter}, ...]}.
    """

    records: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    ranking: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def rank(self, metric: str, value: float, iteration: int, better: str, count: int) -> list[int]:
        """Take in a value; return the iterations of the `count` best (the first of equals stays before later ones)."""
        entries = [entry for entry in self.ranking.get(metric, []) if entry["iter"] != iteration]
        if not math.isnan(value):
            entries.append({"value": value, "iter": iteration})
        sign = -1 if better == "higher" else 1
        self.ranking[metric] = sorted(entries, key=lambda e: (sign * e["value"], e["iter"]))[:count]
        return [int(entry["iter"]) for entry in self.ranking[metric]]

    def update(self, dataset: str, metric: str, value: float, iteration: int, better: str = "higher") -> bool:
        """Take in a value; return whether it is a new best (the first of equals stays; NaN never is)."""
        if math.isnan(value):
            return False
        best = self.records.setdefault(dataset, {}).get(metric)
        if best is not None and (value <= best["value"] if better == "higher" else value >= best["value"]):
            return False
        self.records[dataset][metric] = {"value": value, "iter": iteration}
        return True


def _has_truth(dataset: Any, section: DatasetOptions) -> bool:
    """Tell whether a data set has a ground truth; a user's own is taken to have one."""
    if isinstance(dataset, PairDataset):
        return dataset.pairs.gt is not None
    return bool(section.dataroot_gt) or not is_basicsr(type(dataset))


def _bears_on(option: str, dataset: str, metric: str) -> bool:
    """Tell whether a changed option of `val` or `datasets.val*` changes the scores of a metric on a data set."""
    if option.startswith("val.metrics."):
        return f"{option}.".startswith(f"val.metrics.{metric}.")
    return f"{option}.".startswith(("val.", f"datasets.{dataset}."))


def _beginning(sample: Mapping[str, Any], count: int) -> Mapping[str, Any]:
    """Cut a clip to its first frames; other samples stay as they are."""
    lq = sample["lq"]
    if lq.dim() != 4 or "gt_index" in sample or len(lq) <= count:
        return sample
    cut = {key: value for key, value in sample.items() if isinstance(value, Tensor | list) and len(value) == len(lq)}
    return {**sample, **{key: value[:count] for key, value in cut.items()}}


class Validator:
    """Scores a network on the validation data sets of an experiment.

    The first metric on the first data set with a ground truth decides which network is the best.

    Args:
        opt: validated options; restored images go below their folder when `val.save_img` is set.
        device: where the network is.

    Raises:
        UserError: data or a metric at fault.
    """

    def __init__(self, opt: Options, device: torch.device) -> None:
        self.device, self.folder = device, opt.folder / "visualization"
        val = opt.val or ValOptions()
        self.save_images, self.metrics = val.save_img, val.metrics or {}
        sections = opt.phase("val") if opt.val else {}  # without `val`, training does not validate
        self.sets = {
            key: (open_dataset(section, f"datasets.{key}"), Evaluator(section, val, opt.scale or 1))
            for key, section in sections.items()
        }
        for dataset, evaluator in self.sets.values():
            evaluator.check(dataset)
        self.every = {key: section.val_freq or val.val_freq for key, section in sections.items()}
        scored = (key for key, (dataset, _) in self.sets.items() if _has_truth(dataset, sections[key]))
        self.first = next(scored, None)
        self.deciding = next(iter(self.metrics), "")
        self.best = Best()
        kept = opt.logger.keep_best or {}
        self.keep: dict[str, int] = kept if isinstance(kept, dict) else {self.deciding: kept} if self.deciding else {}

    def run(self, net: nn.Module, iteration: int, keys: Sequence[str]) -> dict[str, EvalResult]:
        """Score `net` on these data sets, by the key of the data set."""
        results = {}
        for key in keys:
            dataset, evaluator = self.sets[key]
            place = self.folder / key / f"{iteration:08d}" if self.save_images else None
            results[key] = evaluator.run(net, dataset, self.device, save_dir=place)
        return results

    def try_one(self, net: nn.Module) -> None:
        """Restore and score an image of each data set, of its shortest clip the first frames; nothing is kept of it.

        Raises:
            UserError: it cannot be scored.
            ProgramFault: the network fails on it.
        """
        for key, (dataset, evaluator) in self.sets.items():
            count = _TRIED + evaluator.rule.skip_first + evaluator.rule.skip_last
            clips = getattr(dataset, "selected", [""])  # those of other data sets are of one length
            shortest = min(range(len(clips)), key=lambda number: len(clips[number]))
            what = f"test sample {shortest}: "
            try:
                sample = _beginning(read_sample(dataset, shortest), count)
                what = f"network {type(net).__name__} fails on {'x'.join(map(str, sample['lq'].shape))}: "
                result = evaluator.run(net, [sample], self.device, progress=False)
                if key == self.first and self.deciding and self.deciding not in result.mean:
                    raise UserError(
                        f"val.metrics.{self.deciding} cannot be measured here, and as the first metric it decides "
                        "which weights are best: put another one before it"
                    )
            except UserError as error:
                error.args = (f"datasets.{key}: {error}",)
                raise
            except Exception as error:
                raise ProgramFault.of(error, f"datasets.{key}: {what}") from error

    def score_of(self, teacher: nn.Module) -> str:
        """Score the teacher on the data set that decides; return a line for the log."""
        key = self.first or next(iter(self.sets))
        dataset, evaluator = self.sets[key]
        # an error of the program on one of many processes must end them all
        expected = UserError if distributed.world_size() > 1 else (UserError, RuntimeError)
        try:
            result = evaluator.run(teacher, dataset, self.device)
        except expected as error:
            return f"The teacher cannot be scored on {evaluator.name}: {first_line(error)}"
        shown = ", ".join(f"{metric} {value:.4f}" for metric, value in result.mean.items())
        return f"The teacher on {result.dataset or key}: {shown}  [{result.protocol}]"

    def begin_anew(self, options: Iterable[str]) -> list[str]:
        """Forget the best values that were scored by other options, so that they compete with none scored by these.

        Args:
            options: the keys of what changed, of `val` and `datasets.val*`.

        Returns:
            What was forgotten, as 'METRIC on datasets.KEY'.
        """
        held = [(key, metric) for key, metrics in self.best.records.items() for metric in metrics]
        stale = [(key, metric) for key, metric in held if any(_bears_on(option, key, metric) for option in options)]
        for key, metric in stale:
            del self.best.records[key][metric]
            if key == self.first:
                self.best.ranking.pop(metric, None)
        return [f"{metric} on datasets.{key}" for key, metric in stale]

    def best_iteration(self) -> int | None:
        """Return the iteration of the best value of the metric that decides; None before the first validation."""
        record = self.best.records.get(self.first or "", {}).get(self.deciding)
        return None if record is None else int(record["iter"])

    def period(self) -> int:
        """Return the iterations between two validations on the data set that decides."""
        return self.every.get(self.first or "") or sys.maxsize

    def judge(self, results: Mapping[str, EvalResult], iteration: int) -> dict[str, Any] | None:
        """Update the best values; return the deciding one's record when it is new."""
        deciding: dict[str, Any] | None = None
        for key, result in results.items():
            for metric, value in result.mean.items():
                new = self.best.update(key, metric, value, iteration, self._better(metric))
                if new and key == self.first and metric == self.deciding:
                    deciding = {"iter": iteration, "dataset": key, "metric": metric, "value": value}
                    deciding["protocol"] = result.protocol
        return deciding

    def to_keep(self, results: Mapping[str, EvalResult], iteration: int) -> dict[str, list[int]]:
        """Return what `logger.keep_best` keeps from now on: {metric: iterations, best first}."""
        first = results.get(self.first or "")
        means = first.mean if first else {}
        return {
            metric: self.best.rank(metric, means[metric], iteration, self._better(metric), count)
            for metric, count in self.keep.items()
            if metric in means
        }

    def _better(self, metric: str) -> str:
        section = self.metrics.get(metric)
        return "lower" if section and lower_is_better(section) else "higher"

    def text(self, results: Mapping[str, EvalResult], iteration: int) -> str:
        """Write one line for each data set: its numbers, the best so far, the protocol."""
        lines = []
        for key, result in results.items():
            records = self.best.records.get(key, {})
            best = {m: f" (best {e['value']:.4f} at {e['iter']:,})" for m, e in records.items()}
            shown = [f"{m} {v:.4f}{best.get(m, '')}" for m, v in result.mean.items()]
            numbers = ", ".join(shown) or "nothing scored"
            lines.append(f"Validation at {iteration:,}, {result.dataset or key}: {numbers}  [{result.protocol}]")
        return "\n".join(lines)
