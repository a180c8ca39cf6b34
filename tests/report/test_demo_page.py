"""What the demo says and shows, for made-up numbers."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.demo.page import Row, finding, write_demo
from kdsr_arch.demo.students import ALONE, TAUGHT, TEST, Training, check_fair, plan, train_all
from kdsr_arch.evaluate.evaluator import EvalResult
from kdsr_arch.evaluate.tester import TestReport, write_results
from kdsr_arch.infer.cost import Cost
from kdsr_arch.infer.pixels import to_bgr, write_png
from kdsr_arch.io import option_file
from tests.helpers.messages import refuses

PROTOCOL = "Y channel, no crop, all frames, BI x4"


def says(alone, taught, teacher=28.0):
    return finding({"bicubic": 25.0, "alone": alone, "taught": taught, "teacher": teacher}, 1200)


def test_the_finding_follows_the_numbers():
    assert "STD gained 0.20 dB, 20 % of the 1.00 dB that the teacher is ahead" in says(27.0, 27.2)
    assert "STD lost 0.30 dB in this run" in says(27.0, 26.7)
    for close in (27.04, 26.96):
        assert "within the noise of one seed" in says(27.0, close)
    assert "no better than the student" in says(27.0, 27.2, teacher=26.9) and "%" not in says(27.0, 27.2, teacher=26.9)
    assert "one seed" in says(27.0, 27.5) and "1,200 iterations" in says(27.0, 27.5)


def test_only_fair_comparisons():
    opt = plan("x", ALONE, None).opt
    check_fair(opt, opt.model_copy(update={"name": "other"}))
    with refuses("demo_alone.yml", "train_std.yml", "train.total_iter"):
        check_fair(opt, opt.model_copy(update={"train": opt.train.model_copy(update={"total_iter": 11})}))


def test_the_shipped_files_are_fair(tmp_path, monkeypatch):
    from kdsr_arch.options import load_options

    monkeypatch.chdir(tmp_path)  # the shipped files are there from any folder
    alone, taught = (plan("x", file, None) for file in (ALONE, TAUGHT))
    check_fair(alone.opt, taught.opt)
    assert load_options(option_file(TEST), is_train=False).network_g == taught.opt.network_g
    quick = plan("x", ALONE, 7)
    assert quick.total == 7 and quick.opt.folder != alone.opt.folder
    assert "--auto_resume" not in quick.command


def made_up_rows(tmp_path, sample):
    rows = []
    labels = {"bicubic": "bicubic", "alone": "student alone", "taught": "student + STD", "teacher": "<teacher>"}
    for number, (key, label) in enumerate(labels.items()):
        result = EvalResult(
            {"psnr": 25.0 + number, "ssim": 0.8, "tof": 0.1},
            [("walk", {"psnr": 25.0 + number}, 3)],
            PROTOCOL,
            {},
            "demo",
            "clips",
        )
        cost = Cost(1000 * number, 1e9, 10.0 * 3**number, 180, 120, 4, "cpu", 2, 7)
        report = TestReport(f"demo/{key}", {"type": "X"}, None, cost, [result])
        folder = tmp_path / key
        write_results(report, folder)
        for frame, image in zip(sample["frames"], sample["gt"], strict=True):
            noisy = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
            write_png(folder / "visualization" / "demo" / "walk" / f"{frame}.png", to_bgr(noisy))
        rows.append(Row(key, label, report, folder))
        if key in ("alone", "taught"):
            lines = [
                {"kind": "train", "iter": 1, "l_pix": 0.5},
                {"kind": "val", "iter": 1, "dataset": "val", "psnr": 26.0},
            ]
            (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
            rows[-1] = replace(rows[-1], experiment=folder, options="options/x.yml")
    return rows


@pytest.fixture
def out(tmp_path, capsys):
    sample = {"lq": torch.rand(3, 3, 24, 32), "gt": torch.rand(3, 3, 96, 128), "name": "walk", "frames": list("012")}
    rows = made_up_rows(tmp_path / "rows", sample)
    assert write_demo(rows, [sample], tmp_path / "out", 1200) == tmp_path / "out" / "demo.html"
    (tmp_path / "printed.txt").write_text(capsys.readouterr().out)
    return tmp_path / "out"


def test_page_pictures_and_tables(out):
    names = {"demo.html", "demo.md", "demo.json", "crops_walk.png", "curves.png"}
    assert {p.name for p in out.iterdir()} == names
    for file in (out / "demo.html", out / "demo.md", out.parent / "printed.txt"):
        text = file.read_text(encoding="utf-8")
        assert "STD gained 1.00 dB" in text and PROTOCOL in text and "student + STD" in text
    assert json.loads((out / "demo.json").read_text())["rows"]["taught"]["results"][0]["mean"]["psnr"] == 27.0
    assert np.asarray(cv2.imread(str(out / "crops_walk.png"))).std() > 5


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_no_other_file(out):
    html = (out / "demo.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    addresses = [value for name, value in reader.attributes if name in ("src", "href", "action", "srcset")]
    pictures = [base64.b64decode(value.removeprefix("data:image/png;base64,")) for value in addresses]
    assert pictures == [(out / f"{name}.png").read_bytes() for name in ("crops_walk", "curves")]
    assert not re.search(r"https?://|@import|url\(", html) and "prefers-color-scheme: dark" in html


def test_texts_are_escaped_and_numbers_marked(out):
    html = (out / "demo.html").read_text(encoding="utf-8")
    assert '<th scope="row">&lt;teacher&gt;</th>' in html and "<teacher>" not in html
    cells = re.findall(r'<td class="number">(.*?)</td>', html)
    assert cells[:6] == ["0", "1.00", "10.0", "25.00", "0.8000", "0.1000"] and cells[-1] == "28.00"


@pytest.mark.slow
def test_a_failed_training_is_told_with_its_last_words(tmp_path):
    file = tmp_path / "options" / "broken.yml"
    file.parent.mkdir()
    file.write_text("name: 1.5\n")
    opt = SimpleNamespace(folder=tmp_path / "experiments")
    with refuses("'x'", "broken.log", "error: "):
        train_all([Training("x", file, opt, 5)], tmp_path)
