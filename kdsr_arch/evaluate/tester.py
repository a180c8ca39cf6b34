"""`kdsr test`: restores and scores every data set of an option file; tables and frames go to ``results/NAME``."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from kdsr_arch.data.loader import open_dataset
from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError
from kdsr_arch.evaluate.evaluator import EvalResult, Evaluator
from kdsr_arch.infer.cost import Cost, measure_cost
from kdsr_arch.infer.open import load_pretrained
from kdsr_arch.io import write_bytes
from kdsr_arch.locks import archive, claimed
from kdsr_arch.log import TextLog, get_logger
from kdsr_arch.options import Options
from kdsr_arch.options.schema import ValOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.records import command_line, format_value, markdown_table, strict_json, versions
from kdsr_arch.registry import build

__test__ = False  # this module tests networks; it holds no test cases


@dataclass(frozen=True)
class TestReport:
    """All that one run of the test measured.

    Attributes:
        name: the experiment's name.
        network: the network's type and keywords.
        weights: the file the weights came from, or None.
        cost: parameters, multiply-adds and run time, or None where not measured.
        results: one entry a data set.
        command: the command line.
        versions: of Python and the packages that matter.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    name: str
    network: dict[str, Any]
    weights: str | None
    cost: Cost | None
    results: list[EvalResult]
    command: str = field(default_factory=command_line)
    versions: dict[str, str] = field(default_factory=versions)


def main(opt: Options, args: Any) -> int:
    """Test a network as an option file says.

    Args:
        opt: validated options: ``network_g``, ``path.pretrain_network_g``, ``datasets.*``, ``val``.
        args: ``launcher`` ('none', 'pytorch', 'slurm').

    Returns:
        The exit code 0.

    Raises:
        UserError: anything the user can mend.
    """
    on_gpu = pick_device(opt.num_gpu).type == "cuda"
    with distributed.joined(getattr(args, "launcher", "none"), on_gpu, opt.dist_params), TextLog():
        run(opt)
    return 0


def run(opt: Options, folder: Path | None = None, progress: bool = True) -> TestReport:
    """Do everything that :func:`main` does between start-up and exit.

    Tables are written after each data set: what a fault in a later one, or a kill, leaves is sound.

    Args:
        opt: validated options.
        folder: where tables and frames go. Default: results/NAME, that of an earlier test being renamed.
        progress: show a bar for each data set.

    Returns:
        What was measured.
    """
    device, val, scale = pick_device(opt.num_gpu), opt.val or ValOptions(), opt.scale or 1
    sections = opt.phase("test") or opt.phase("val")  # test, test_1, ...; those of val where there are none
    if not sections:
        raise UserError("there is nothing to test: add a data set under datasets.test_1")
    net = build_for_test(opt).to(device)
    jobs = [
        (open_dataset(section, f"datasets.{key}"), Evaluator(section, val, scale))
        for key, section in sorted(sections.items())
    ]
    for dataset, evaluator in jobs:
        evaluator.check(dataset)
    counts = Counter(evaluator.name for _, evaluator in jobs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"datasets: {counts[twice[0]]} test sets are named '{twice[0]}'; give each a name of its own")
    report = TestReport(opt.name, opt.network_g.plain(), opt.path.pretrain_network_g, None, [])
    with _output(folder or opt.folder, keep=folder is None) as folder:
        for dataset, evaluator in jobs:
            frames = folder / "visualization" / evaluator.name if val.save_img else None
            report.results.append(evaluator.run(net, dataset, device, save_dir=frames, progress=progress))
            get_logger().info(_describe(report.results[-1]))
            _write_on_main(report, folder)
        if val.speed_size:
            width, height = val.speed_size
            report = replace(report, cost=measure_cost(net, device, scale, (width, height)))
            get_logger().info(str(report.cost))
            _write_on_main(report, folder)
        get_logger().info(f"Tables: {folder / 'results.md'} (.csv, .json)")
        distributed.barrier()
    return report


@contextmanager
def _output(folder: Path, keep: bool) -> Iterator[Path]:
    """Hold the folder that a test writes, on the main process; `keep` renames that of an earlier test first.

    Raises:
        UserError: another test writes there, or it cannot be written, which is told before hours of testing.
    """
    busy = "is testing here; wait for it, or give this test another 'name'"
    with claimed(folder, busy) if distributed.is_main() else nullcontext():
        if keep and distributed.is_main():
            try:
                archive(folder)
            except OSError as error:
                raise UserError(f"{folder}: an earlier test's results cannot be renamed ({error.strerror})") from None
        distributed.barrier()
        yield folder


def _write_on_main(report: TestReport, folder: Path) -> None:
    if distributed.is_main():
        write_results(report, folder)


def build_for_test(opt: Options) -> nn.Module:
    """Build ``network_g`` with its weights.

    Raises:
        UserError: a network with parameters but without ``path.pretrain_network_g``, or weights that do not fit.
    """
    net = build("network", opt.network_g, "network_g")
    loaded = load_pretrained(net, opt.path, "g")
    if not loaded and not getattr(net, "pretrained", False) and any(True for _ in net.parameters()):
        raise UserError(
            f"path.pretrain_network_g is missing: network {opt.network_g.type} has parameters, and "
            "untrained ones restore nothing; name the weights to test"
        )
    return net


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


# ---------------------------------------------------------------- CSV for programs, Markdown for people, JSON for both


def _result_table(result: EvalResult) -> str:
    metrics = list(result.mean)
    rows = [
        [name, str(count), *(format_value(values[m], m) if m in values else "-" for m in metrics)]
        for name, values, count in result.per_item
    ]
    frames = str(sum(count for _, _, count in result.per_item))
    rows.append([f"**mean over {result.unit}**", frames, *(f"**{format_value(result.mean[m], m)}**" for m in metrics)])
    if result.unit == "clips" and len(result.per_item) > 1:
        values = [format_value(result.frame_mean[m], m) if m in result.frame_mean else "-" for m in metrics]
        rows.append(["mean over all frames", frames, *values])
    return markdown_table([result.unit[:-1], "frames", *metrics], rows)


def markdown(report: TestReport) -> str:
    """Write the report as a Markdown page."""
    weights = f"weights {report.weights}" if report.weights else "no weights"
    lines = [f"# {report.name}", "", f"Network {report.network.get('type', '?')}, {weights}.", ""]
    if report.cost is not None:
        lines += [f"{report.cost}", ""]
    for result in report.results:
        lines += [f"## {result.dataset}", "", f"Protocol: {result.protocol}.", "", _result_table(result), ""]
    lines += [
        "---",
        "",
        f"Command: `{report.command}`",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report.versions.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def csv_text(report: TestReport) -> str:
    """Write one line per clip or image, then one per data set whose item is ``mean``."""
    metrics = list(dict.fromkeys(name for result in report.results for name in result.mean))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["network", "dataset", "item", "frames", *metrics, "protocol"])
    for result in report.results:
        total = sum(count for _, _, count in result.per_item)
        for name, values, count in [*result.per_item, ("mean", result.mean, total)]:
            numbers = [f"{values[m]:.6f}" if m in values else "" for m in metrics]
            writer.writerow([report.name, result.dataset, name, count, *numbers, result.protocol])
    return buffer.getvalue()


def json_text(report: TestReport) -> str:
    """Write the whole report as strict JSON; infinite values become the text 'inf'."""
    content = asdict(report)
    for result in content["results"]:
        result["per_item"] = [{"name": name, "frames": count, **values} for name, values, count in result["per_item"]]
    return strict_json(content)


def write_results(report: TestReport, folder: Path) -> list[Path]:
    """Write ``results.csv``, ``results.md`` and ``results.json`` into ``folder``, each whole or not at all."""
    texts = {"results.csv": csv_text(report), "results.md": markdown(report), "results.json": json_text(report)}
    for name, text in texts.items():
        write_bytes(folder / name, text.encode(errors="backslashreplace"))
    return [folder / name for name in texts]
