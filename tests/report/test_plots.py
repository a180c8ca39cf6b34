"""Curves: what is read from histories, and that pictures are written or refused."""

import builtins
import json

import cv2
import numpy as np
import pytest

from kdsr_arch.report.training_curves import Curve, _draw_loss, loss_curve, plot_curves, smooth, val_curve
from tests.helpers.messages import refuses


def write_history(folder, iterations=20):
    folder.mkdir()
    with open(folder / "history.jsonl", "w") as file:
        for i in range(1, iterations + 1):
            file.write(json.dumps({"kind": "train", "iter": i, "lr": 1e-3, "l_pix": 1 / i}) + "\n")
            if i % 5 == 0:
                score = {"kind": "val", "iter": i, "dataset": "held-out", "protocol": "Y channel", "psnr": 20 + i}
                file.write(json.dumps(score) + "\n")
        file.write('{"iter": 99, "l_p')  # a killed run leaves half a line
    return folder


def test_curves_from_a_history():
    records = [
        {"kind": "train", "iter": 1, "l_pix": 0.5},
        {"kind": "val", "iter": 2, "dataset": "a", "protocol": "RGB", "psnr": 30.0},
        {"kind": "val", "iter": 2, "dataset": "b", "protocol": "RGB", "psnr": 31.0},
        {"kind": "train", "iter": 2, "l_pix": 0.25},
        {"kind": "val", "iter": 3, "dataset": "a", "protocol": "RGB", "psnr": "inf"},
    ]
    assert loss_curve(records) == Curve([1, 2], [0.5, 0.25])
    assert val_curve(records).values == [30.0] and val_curve(records, metric="ssim").values == []
    assert val_curve(records, dataset="b") == Curve([2], [31.0])


def test_smooth_by_hand():
    assert smooth([0, 3, 6, 9], 3) == pytest.approx([1.5, 3, 6, 7.5])
    assert smooth([4.0], 9) == pytest.approx([4.0])
    assert smooth([], 3).size == 0


def test_plots_are_pictures(tmp_path):
    runs = {label: write_history(tmp_path / label) for label in ("alone", "taught")}
    out = plot_curves(runs, tmp_path / "made" / "curves.png", levels={"teacher": 50.0}, protocol="Y channel")
    image = cv2.imread(str(out))
    assert image.shape[0] > 300 and image.std() > 5
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["curves.png"]


@pytest.mark.parametrize(
    "span", [(0.031, 0.038), (0.011, 0.019), (0.5, 0.5), (0.6, 1.4), (0.05, 0.5), (0.02, 7.0), (-1.0, 1.0)]
)
def test_the_axis_of_the_loss_has_numbers(span):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    for low, high in ((span[1], span[1]), span):  # the second curve decides
        _draw_loss(axes, Curve([1, 2, 3], [high, (low + high) / 2, low]), "run", "black")
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
    shown = [tick for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]
    assert len(shown) >= 2


def test_a_quantity_that_nobody_logged_is_refused(tmp_path):
    folder = write_history(tmp_path / "run")
    with refuses("l_pxi", "lr", near="l_pix"):
        plot_curves({"run": folder}, tmp_path / "a.png", loss="l_pxi")
    with refuses("psn", "psnr"):
        plot_curves({"run": folder}, tmp_path / "a.png", metric="psn")
    assert not (tmp_path / "a.png").exists()


def test_an_empty_history_is_refused(tmp_path):
    with refuses(tmp_path / "missing", "history.jsonl"):
        plot_curves({"alone": tmp_path / "missing"}, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_without_matplotlib(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with refuses("matplotlib", "pip install 'kdsr[demo]'"):
        plot_curves({"a": write_history(tmp_path / "a")}, tmp_path / "x.png")


def test_smoothing_keeps_the_mean_of_a_line():
    line = np.linspace(0, 1, 41)
    assert smooth(line, 5)[2:-2] == pytest.approx(line[2:-2])
