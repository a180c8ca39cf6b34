"""`kdsr plot`: what is drawn and what is refused."""

import json

import cv2
import pytest

from kdsr_arch.cli import main
from kdsr_arch.data.keys import label_folders


def experiment(path):
    path.mkdir()
    lines = [{"kind": "train", "iter": i, "l_pix": 1 / i} for i in range(1, 30)] + [
        {"kind": "val", "iter": iteration, "dataset": "a", "psnr": psnr} for iteration, psnr in ((20, 30.0), (29, 30.5))
    ]
    (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plot(*words):
    return main(["plot", *map(str, words)])


def test_curves_are_drawn(tmp_path):
    runs = [experiment(tmp_path / name) for name in ("alone", "std")]
    assert plot(*runs, "-o", tmp_path / "curves.png", "--names", "alone", "taught") == 0
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 5


def test_every_experiment_has_its_label(tmp_path, monkeypatch):
    """One without the loss is drawn in the other panel alone."""
    from matplotlib.axes import Axes

    runs = [experiment(tmp_path / name) for name in ("alone", "std")]
    history = runs[1] / "history.jsonl"
    history.write_text(history.read_text().replace("l_pix", "l_output"))
    drawn = []
    legend = Axes.legend
    monkeypatch.setattr(Axes, "legend", lambda self, *given: drawn.append(legend(self, *given)))
    assert plot(*runs, "-o", tmp_path / "curves.png") == 0
    assert [text.get_text() for text in drawn[0].get_texts()] == ["alone", "std"]


@pytest.mark.parametrize(("folders", "labels"), [
    (["a/std", "a/alone"], ["std", "alone"]),
    (["a/std", "b/std"], ["a/std", "b/std"]),
    (["a/std", "b/std", "a/alone"], ["a/std", "b/std", "a/alone"]),
])  # fmt: skip
def test_folders_are_told_apart_by_their_parents(tmp_path, folders, labels):
    assert label_folders([tmp_path / folder for folder in folders]) == labels


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "history.jsonl"),
        (["run", "--metric", "lpips"], "lpips"),
        (["run", "--dataset", "REDS"], "REDS"),
        (["run", "--names", "a", "b"], "2 names for 1"),
        (["run", "-o", "x.pdf"], ".png"),
        (["run", "run"], "run: is given twice"),
        (["run", "run", "--names", "a", "a"], "--names"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    experiment(tmp_path / "run")
    (tmp_path / "none").mkdir()
    assert plot(*words) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.glob("*.p[nd][gf]"))
