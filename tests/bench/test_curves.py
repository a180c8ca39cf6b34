"""The pictures of a bench."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import cv2
import pytest
from matplotlib.axes import Axes

from kdsr_arch.bench import curves
from kdsr_arch.bench.curves import _common, histories, levels, plot_bench, plot_costs, plot_gains
from kdsr_arch.bench.outcomes import Outcome, note_outcome
from kdsr_arch.bench.plan import Plan
from kdsr_arch.bench.summary import summarize
from kdsr_arch.report.training_curves import val_curve
from tests.helpers.benches import as_continued


def test_psnr_is_drawn_against_cost_without_labels_on_one_another(tmp_path: Path):
    frame = {"milliseconds": 1.0, "width": 320, "height": 180, "device": "cpu", "threads": 1}

    def tested(row: str, adds: float, psnr: float, parameters: int = 10) -> Outcome:
        cost = {"parameters": parameters, "multiply_adds": adds, **frame}
        return Outcome(row=row, reference=True, val={"Set5": {"psnr": psnr}}, seconds=1, ratios={}, cost=cost)

    nets = [tested("ours", 1e9, 31.0), tested("another one", 1.02e9, 30.98), tested("third", 9e9, 32.0)]
    drawn = {}
    with mock.patch.object(curves, "_free_places", side_effect=curves._free_places) as places:
        picture = plot_costs([*nets, tested("bicubic", 0.0, 28.0, parameters=0)], tmp_path / "costs.png")
        (axes, points), _ = places.call_args
        shifts = dict(zip(points, curves._free_places(axes, points), strict=True))
    for row, (x, y) in points.items():
        px, py = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
        dx, dy = shifts[row]
        drawn[row] = (px + dx, py + dy, px + dx + 4.6 * len(row), py + dy + 10)
    assert set(drawn) == {"ours", "another one", "third"} and picture.stat().st_size > 5000
    assert not any(curves._overlap(drawn[a], drawn[b]) for a in drawn for b in drawn if a != b)


def test_gains_are_drawn_with_their_intervals_against_the_budget(tmp_path: Path):
    def trained(row: str, budget: int, *scores: float) -> list[Outcome]:
        runs = [
            {"row": row, "seed": seed, "budget": budget, "val": {"s": {"psnr": v}}} for seed, v in enumerate(scores)
        ]
        return [Outcome(**run, seconds=1, ratios={}) for run in runs]

    outcomes = [*trained("alone", 100, 20, 21), *trained("alone", 900, 25, 25)]
    outcomes += [*trained("taught", 900, 25.5, 25.5), *trained("taught", 100, 20.1, 21.3)]
    with mock.patch("matplotlib.axes.Axes.errorbar", autospec=True, side_effect=Axes.errorbar) as drawn:
        picture = plot_gains(summarize(outcomes, "alone"), tmp_path / "gains.png", "alone")
    ((_, budgets, means, halves), style), *others = drawn.call_args_list
    assert (list(budgets), style["label"], others) == ([100, 900], "taught", [])
    assert means == pytest.approx((0.2, 0.5)) and halves == pytest.approx((12.7062 * 0.1, 0), rel=1e-4)  # t of 1 degree
    assert cv2.imread(str(picture)).std() > 5


def test_learning_curves_are_means_over_the_seeds_both_have(tmp_path: Path):
    def history(*values: float) -> list[dict]:
        return [{"kind": "val", "iter": 10 * i, "dataset": "val", "psnr": v} for i, v in enumerate(values, 1)]

    other = [{"kind": "val", "iter": 20, "dataset": "val_2", "psnr": 90.0}]
    curves = [val_curve(history(20, 24, 28) + other), val_curve(history(22, 26))]
    iterations, values = _common(curves)
    assert iterations == [10, 20] and values.mean(0).tolist() == [21, 25]
    rows = {"alone": [history(20, 24), history(22, 26)], "empty": [[]]}
    picture = plot_bench(rows, tmp_path / "c.png", levels={"t": 25})
    assert cv2.imread(str(picture)).std() > 5


def test_curves_are_of_the_first_set_although_a_teacher_was_trained_without_any():
    rows = {"teacher": {}, "bicubic": {"Set5": {"psnr": 28.4}}}
    outcomes = [Outcome(row=row, reference=True, val=val, seconds=1.0, ratios={}) for row, val in rows.items()]
    assert levels(outcomes) == ("Set5", {"bicubic": 28.4})


def test_a_run_read_off_later_has_one_curve(bench: Path, tmp_path: Path):
    rows = {"alone": {"train.pixel_opt.loss_weight": 0.5}, "alone longer": {"extra_iter": 30}}
    rows["alone longer"] |= rows["alone"]
    as_continued(bench, common={"train.scheduler": None}, rows=rows, seeds=[1, 2], budgets=[50])
    runs = Plan(bench, tmp_path).rows()
    for run in runs:
        run.experiment.mkdir(parents=True, exist_ok=True)
        lines = [
            {"kind": "train", "iter": 40, "l_pix": 0.1},
            {"kind": "val", "iter": run.length, "dataset": "val", "psnr": 30.0},
        ]
        (run.experiment / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        note_outcome(run, 1.0)
    seen = histories(runs)
    assert list(seen) == ["alone"] and len(seen["alone"]) == 2
    assert [seed[0]["l_pix"] for seed in seen["alone"]] == [0.2, 0.2]  # without the row's weight of 0.5
