"""`kdsr plot`: what kind of folder is drawn how, and what is refused."""

import json

import cv2
import pytest

from kdsr_arch.cli import main


def experiment(path):
    path.mkdir()
    lines = [{"kind": "train", "iter": i, "l_pix": 1 / i} for i in range(1, 30)] + [
        {"kind": "val", "iter": iteration, "dataset": "a", "psnr": psnr} for iteration, psnr in ((20, 30.0), (29, 30.5))
    ]
    (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def result(path, value=30.0, milliseconds=12.0, protocol="Y channel"):
    path.mkdir()
    cost = {
        "milliseconds": milliseconds,
        "parameters": 1000,
        "threads": 1,
        "device": "cpu",
        "width": 180,
        "height": 120,
        "scale": 4,
        "multiply_adds": 1,
    }
    report = {"cost": cost, "results": [{"dataset": "Vid4", "mean": {"psnr": value}, "protocol": protocol}]}
    (path / "results.json").write_text(json.dumps(report))
    return path


def plot(*words):
    return main(["plot", *map(str, words)])


def test_both_kinds_are_drawn(tmp_path):
    logs = [experiment(tmp_path / name) for name in ("alone", "std")]
    tests = [result(tmp_path / "s", 30), result(tmp_path / "t", 32, 90.0)]
    assert plot(*logs, "-o", tmp_path / "curves.png", "--names", "alone", "taught") == 0
    assert plot(*tests, "-o", tmp_path / "speed.png", "--taught", "s") == 0
    shapes = {cv2.imread(str(tmp_path / f"{name}.png")).shape for name in ("curves", "speed")}
    assert len(shapes) == 2


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["none"], "neither history.jsonl"),
        (["run", "res"], "do not go in one plot"),
        (["res", "--metric", "lpips"], "lpips was not measured"),
        (["res", "--dataset", "REDS"], "no results of data set"),
        (["res", "other"], "measured in different ways"),
        (["res", "--names", "a", "b"], "2 names for 1"),
        (["res", "--taught", "x"], "x is none of"),
        (["res", "-o", "x.pdf"], "written as .png"),
        (["res", "res"], "tell them apart"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, words, word):
    monkeypatch.chdir(tmp_path)
    experiment(tmp_path / "run"), result(tmp_path / "res"), result(tmp_path / "other", protocol="RGB")
    (tmp_path / "none").mkdir()
    assert plot(*words) == 2
    assert word in capsys.readouterr().err and not list(tmp_path.glob("*.p[nd][gf]"))
