"""Validation during training: every `val` data set, and the record of the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsr_arch.engine.evaluate import EvalResult, Evaluator


@dataclass
class Best:
    """The best value of each metric on each data set: {data set: {metric: {value, iter}}}."""

    records: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def update(self, dataset: str, metric: str, value: float, iteration: int, better: str = "higher") -> bool:
        """Take in a value; whether it is a new best (the first of equals stays)."""
        held = self.records.setdefault(dataset, {}).get(metric)
        if held is not None and (value <= held["value"] if better == "higher" else value >= held["value"]):
            return False
        self.records[dataset][metric] = {"value": value, "iter": iteration}
        return True


class Validator:
    """Scores a network on the validation data sets of an experiment.

    The first metric on the first data set decides which network is the best.

    Args:
        opt: validated options.
        datasets: {key of `datasets`: data set}.
        device: where the network is.
        folder: where restored images go when `val.save_img` is set.
    """

    def __init__(self, opt: Mapping[str, Any], datasets: Mapping[str, Any], device: torch.device, folder: Path) -> None:
        val = opt.get("val") or {}
        datasets = datasets if opt.get("val") else {}  # without `val`, training does not validate
        self.device, self.folder, self.save_images = device, folder, bool(val.get("save_img"))
        self.metrics: dict[str, dict[str, Any]] = val.get("metrics") or {}
        self.sets = {k: (d, Evaluator(opt["datasets"][k], val, opt["scale"])) for k, d in datasets.items()}
        self.best = Best()

    def run(self, net: nn.Module, iteration: int) -> dict[str, EvalResult]:
        """Score `net` on each data set, by the key of the data set."""
        results = {}
        for key, (dataset, evaluator) in self.sets.items():
            place = self.folder / key / f"{iteration:08d}" if self.save_images else None
            results[key] = evaluator.run(net, dataset, self.device, save_dir=place)
        return results

    def judge(self, results: Mapping[str, EvalResult], iteration: int) -> dict[str, Any] | None:
        """Update the best values; the deciding one's record when it is new."""
        deciding: dict[str, Any] | None = None
        for index, (key, result) in enumerate(results.items()):
            for place, (metric, value) in enumerate(result.mean.items()):
                better = self.metrics.get(metric, {}).get("better") or "higher"
                new = self.best.update(key, metric, value, iteration, better)
                if new and index == place == 0:
                    deciding = {"iter": iteration, "dataset": key, "metric": metric, "value": value}
                    deciding["protocol"] = result.protocol
        return deciding

    def text(self, results: Mapping[str, EvalResult], iteration: int) -> str:
        """One line for each data set: its numbers, the best so far, the protocol."""
        lines = []
        for key, result in results.items():
            held = self.best.records.get(key, {})
            shown = [
                f"{m} {v:.4f} (best {held[m]['value']:.4f} at {held[m]['iter']:,})" for m, v in result.mean.items()
            ]
            lines.append(
                f"Validation at {iteration:,}, {result.dataset or key}: {', '.join(shown)}  [{result.protocol}]"
            )
        return "\n".join(lines)
