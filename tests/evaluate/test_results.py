"""Tables on disk: what they say, that they read back, that a failed write leaves nothing."""

import csv
import json

import pytest

from kdsr_arch.evaluate.evaluator import EvalResult
from kdsr_arch.evaluate.tester import TestReport, write_results
from kdsr_arch.infer.cost import Cost
from kdsr_arch.records import format_value, markdown_table, strict_json
from tests.helpers.messages import refuses


def report():
    per_item = [("walk", {"psnr": 30.125, "ssim": 0.91}, 47), ("calendar", {"psnr": 20.0, "ssim": 0.7}, 41)]
    result = EvalResult(
        {"psnr": 25.0625, "ssim": 0.805},
        per_item,
        "Y channel, no crop, all frames, BI x4",
        {"psnr": 25.4, "ssim": 0.81},
        "Vid4",
        "clips",
    )
    cost = Cost(48_000, 1.25e9, 31.4, 180, 120, 4, "cpu", 2, 7)
    return TestReport("test_std", {"type": "VESPCN"}, "net.pth", cost, [result], command="kdsr test -opt x.yml")


def test_files(tmp_path):
    paths = write_results(report(), tmp_path / "deep" / "er")
    assert sorted(p.name for p in (tmp_path / "deep" / "er").iterdir()) == sorted(p.name for p in paths)
    text = {path.suffix: path.read_text() for path in paths}
    rows = list(csv.DictReader(text[".csv"].splitlines()))
    assert [row["item"] for row in rows] == ["walk", "calendar", "mean"]
    assert float(rows[2]["psnr"]) == pytest.approx(25.0625) and rows[0]["frames"] == "47"
    assert rows[0]["protocol"] == "Y channel, no crop, all frames, BI x4"
    content = json.loads(text[".json"])
    assert content["results"][0]["per_item"][0] == {"name": "walk", "frames": 47, "psnr": 30.125, "ssim": 0.91}
    assert content["command"] == "kdsr test -opt x.yml" and "torch" in content["versions"]
    for part in (
        "48,000 parameters",
        "1.25 G multiply-adds",
        "31.4 ms per frame",
        "180x120 at x4",
        "2 CPU threads",
        "Protocol: Y channel",
        "mean over clips",
        "mean over all frames",
        "kdsr test -opt x.yml",
        "torch 2",
    ):
        assert part in text[".md"], part


def test_json_is_strict():
    assert json.loads(strict_json({"a": [float("inf"), float("nan"), 1.5], "b": {"c": -float("inf")}})) == {
        "a": ["inf", "nan", 1.5],
        "b": {"c": "-inf"},
    }


def test_numbers_as_people_read_them():
    assert format_value(30.125, "psnr") == "30.12" and format_value(9.5, "psnr") == "9.50"
    assert format_value(0.80512, "ssim") == "0.8051" and format_value(float("inf"), "psnr") == "inf"
    assert markdown_table(["a", "b"], [["x", "1"]]).splitlines() == ["| a | b |", "|---|---:|", "| x | 1 |"]
    assert markdown_table(["a", "b"], [["x|y", "1"]], numbers=False).splitlines()[1:] == ["|---|---|", "| x\\|y | 1 |"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    with refuses(tmp_path / "results"):
        write_results(report(), tmp_path / "results")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results"]
