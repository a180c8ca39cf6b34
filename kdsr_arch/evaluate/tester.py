"""`kdsr test`: restores and scores every data set of an option file; tables and frames go to ``results/NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdsr_arch.data.sets import open_dataset
from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError
from kdsr_arch.evaluate.evaluator import EvalResult, Evaluator
from kdsr_arch.evaluate.results import TestReport, write_results
from kdsr_arch.infer.cost import STD_PAPER_SIZE, Cost, measure_cost
from kdsr_arch.infer.open import load_pretrained
from kdsr_arch.log import TextLog, get_logger
from kdsr_arch.options import Options, plain
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import build

__test__ = False  # this module tests networks; it holds no test cases


def main(opt: Options | dict[str, Any], args: Any) -> int:
    """Test.

    Args:
        opt: validated options: ``network_g``, ``path.pretrain_network_g``, ``datasets.*``, ``val``.
        args: ``launcher`` ('none', 'pytorch', 'slurm').

    Returns:
        The exit code 0.

    Raises:
        UserError: anything the user can mend; nothing is written then.
    """
    opt = plain(opt)
    device = pick_device(opt.get("num_gpu", 0))
    job = distributed.joined(getattr(args, "launcher", "none"), device.type == "cuda", opt.get("dist_params"))
    with job, TextLog():
        run(opt)
    return 0


def run(opt: Options | Mapping[str, Any], progress: bool = True) -> TestReport:
    """Everything :func:`main` does between start-up and exit; returns what it measured."""
    opt = plain(opt)
    device = pick_device(opt.get("num_gpu", 0))
    val = opt.get("val") or {}
    net = build_for_test(opt).to(device)
    jobs = [
        (
            open_dataset(DatasetOptions(**opt["datasets"][key]), f"datasets.{key}"),
            Evaluator(opt["datasets"][key], val, opt["scale"]),
        )
        for key in test_keys(opt)
    ]
    folder = Path(opt["path"]["results_root"])
    results = []
    for dataset, evaluator in jobs:
        frames = folder / "visualization" / evaluator.name if val.get("save_img") else None
        result = evaluator.run(net, dataset, device, save_dir=frames, progress=progress)
        get_logger().info(_describe(result))
        results.append(result)
    report = TestReport(
        opt["name"],
        dict(opt["network_g"]),
        opt["path"].get("pretrain_network_g"),
        _cost(net, device, opt["scale"], val),
        results,
    )
    if distributed.is_main():
        write_results(report, folder)
        get_logger().info(f"Tables: {folder / 'results.md'} (.csv, .json)")
    distributed.barrier()
    return report


def test_keys(opt: Mapping[str, Any]) -> list[str]:
    """The data sets to test: ``test``, ``test_1``, ...; those of ``val`` where there are none."""
    keys = sorted(opt.get("datasets") or {})
    found = [key for key in keys if key.startswith("test")] or [key for key in keys if key.startswith("val")]
    if not found:
        raise UserError("there is nothing to test: add a data set under datasets.test_1")
    return found


def build_for_test(opt: Mapping[str, Any]) -> nn.Module:
    """``network_g`` with its weights.

    Raises:
        UserError: a network with parameters but without ``path.pretrain_network_g``, or weights that do not fit.
    """
    net = build("network", opt["network_g"], "network_g")
    loaded = load_pretrained(net, opt.get("path") or {}, "g")
    if not loaded and not getattr(net, "pretrained", False) and any(True for _ in net.parameters()):
        raise UserError(
            f"path.pretrain_network_g is missing: network {opt['network_g']['type']} has parameters, and "
            "untrained ones restore nothing; name the weights to test"
        )
    return net


def _cost(net: nn.Module, device: Any, scale: int, val: Mapping[str, Any]) -> Cost | None:
    size = val.get("speed_size", STD_PAPER_SIZE)
    if not size:
        return None
    cost = measure_cost(net, device, scale, tuple(size))
    get_logger().info(str(cost))
    return cost


def _describe(result: EvalResult) -> str:
    lines = [f"{result.dataset}  [{result.protocol}]"]
    width = max(len(name) for name, _, _ in result.per_item)
    if len(result.per_item) <= 20:
        for name, values, count in result.per_item:
            numbers = "  ".join(f"{metric} {value:.4f}" for metric, value in values.items())
            lines.append(f"  {name:<{width}}  {numbers or f'{count} frames scored'}")
    mean = "  ".join(f"{metric} {value:.4f}" for metric, value in result.mean.items())
    lines.append(f"  mean over {len(result.per_item)} {result.unit}: {mean or 'no ground truth, nothing scored'}")
    return "\n".join(lines)
