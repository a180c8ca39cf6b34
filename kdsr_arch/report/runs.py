"""What `kdsr plot` draws: the histories of trainings, or the results of tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from kdsr_arch.errors import UserError
from kdsr_arch.infer.cost import where_run
from kdsr_arch.io import read_json
from kdsr_arch.report.curves import plot_curves
from kdsr_arch.report.speed_plot import SpeedPoint, plot_speed

KINDS = ("auto", "curves", "speed")


def plot(
    folders: Sequence[Path],
    out: Path,
    *,
    kind: str = "auto",
    names: Sequence[str] | None = None,
    metric: str = "psnr",
    loss: str = "l_pix",
    dataset: str | None = None,
    taught: Sequence[str] = (),
) -> Path:
    """Draw training curves of experiments, or PSNR against run time of results.

    Args:
        folders: experiments (with history.jsonl) or results of `kdsr test` (with results.json).
        out: the PNG.
        kind: 'curves', 'speed', or 'auto': by what the folders hold.
        names: labels; the folders' names by default.
        metric: drawn over iterations or run time.
        loss: training quantity beside the validation curves.
        dataset: which one; the first by default.
        taught: labels drawn as stars in the speed plot: distilled students.

    Raises:
        UserError: folders that hold neither, or both; a metric that was not measured.
    """
    if names is not None and len(names) != len(folders):
        raise UserError(f"--names: {len(names)} names for {len(folders)} folders; give one for each")
    labels = list(names) if names is not None else [folder.resolve().name for folder in folders]
    if len(set(labels)) < len(labels):
        raise UserError(f"two folders have one name ({', '.join(labels)}); tell them apart with --names")
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: plots are written as .png")
    if kind == "auto":
        kind = _kind(folders)
    if kind == "speed":
        return _speed(folders, labels, out, metric, dataset, taught)
    return plot_curves(dict(zip(labels, folders, strict=True)), out, metric=metric, loss=loss, dataset=dataset)


def _kind(folders: Sequence[Path]) -> str:
    kinds = {}
    for folder in folders:
        if (folder / "results.json").is_file():
            kinds[folder] = "speed"
        elif (folder / "history.jsonl").is_file():
            kinds[folder] = "curves"
        else:
            raise UserError(f"{folder}: holds neither history.jsonl nor results.json: nothing to draw")
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{folder} ({kind})" for folder, kind in kinds.items())
        raise UserError(f"experiments and results do not go in one plot: {told}; name folders of one kind")
    return next(iter(kinds.values()))


def _speed(
    folders: Sequence[Path], labels: Sequence[str], out: Path, metric: str, dataset: str | None, taught: Sequence[str]
) -> Path:
    unknown = set(taught) - set(labels)
    if unknown:
        raise UserError(f"--taught: {', '.join(sorted(unknown))} is none of {', '.join(labels)}")
    points, protocol, cost = speed_points(folders, labels, metric, dataset, taught)
    return plot_speed(
        points,
        out,
        size=f"{cost.width}x{cost.height} x{cost.scale}",
        where=where_run(cost.device, cost.threads),
        protocol=protocol,
    )


def speed_points(
    folders: Sequence[Path], labels: Sequence[str], metric: str, dataset: str | None, taught: Sequence[str]
) -> tuple[list[SpeedPoint], str, _Cost]:
    """(points, protocol of the quality, how the time was measured) of results folders.

    Raises:
        UserError: a file that cannot be read, a metric that was not measured, results of different protocols.
    """
    reports = [_report(folder) for folder in folders]
    results = [_result(report, dataset, folder) for report, folder in zip(reports, folders, strict=True)]
    points, protocols = [], {result.protocol for result in results}
    if len(protocols) > 1:
        raise UserError(f"the results were measured in different ways: {' / '.join(sorted(protocols))}")
    for folder, label, report, result in zip(folders, labels, reports, results, strict=True):
        value = result.mean.get(metric)
        if not isinstance(value, (int, float)):
            raise UserError(f"{folder}: {metric} was not measured; it has {', '.join(result.mean)}")
        points.append(SpeedPoint(label, report.cost.milliseconds, value, report.cost.parameters, label in taught))
    return points, protocols.pop(), reports[0].cost


class _Cost(BaseModel):
    """What is read of the run time in a results.json."""

    milliseconds: Annotated[FiniteFloat, Field(gt=0)]
    parameters: Annotated[int, Field(ge=0, lt=1 << 53)]
    threads: int
    device: str
    width: int
    height: int
    scale: int


class _Result(BaseModel):
    """What is read of one data set."""

    dataset: str
    mean: dict[str, float | str | None]
    protocol: str = ""


class _Report(BaseModel):
    """What is read of a results.json."""

    cost: _Cost
    results: list[_Result] = []


def _report(folder: Path) -> _Report:
    path = folder / "results.json"
    report = read_json(path, dict, "run kdsr test again")
    if not report.get("cost"):
        raise UserError(f"{path}: has no run time; test again without switching its measurement off")
    try:
        return _Report.model_validate(report)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path}: {place} is missing or not what it should be; run kdsr test again") from None


def _result(report: _Report, dataset: str | None, folder: Path) -> _Result:
    for result in report.results:
        if dataset is None or result.dataset == dataset:
            return result
    known = ", ".join(result.dataset for result in report.results)
    raise UserError(f"{folder}: has no results of data set '{dataset}'; it has {known}")
