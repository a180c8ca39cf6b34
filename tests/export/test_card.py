"""Model cards: front matter that parses, the run's own numbers, controls measured alike."""

import json

import pytest
import torch
import yaml

from kdsr_arch.cli import main

OPTIONS = """# GENERATE TIME: now
# CMD:
# /home/somebody/kdsr train
name: taught
model_type: ImageDistillModel
scale: 4
datasets: {train: {name: photographs, type: ImagePairDataset}}
network_g: {type: FSRCNN, scale: 4}
network_t: {type: spandrel, path: dat.pth}
train:
  total_iter: 20
  pixel_opt: {type: L1Loss, loss_weight: 0.5}
  distill_opt: {output: {type: L1Loss, loss_weight: 0.25}}
"""


def make_run(root, name, psnr, protocol="Y channel, crop 4, BI x4"):
    folder = root / "experiments" / name
    (folder / "models").mkdir(parents=True)
    (folder / "options.yml").write_text(OPTIONS)
    lines = [
        {"kind": "train", "iter": 10, "l_pix": 0.1},
        {"kind": "val", "iter": 10, "dataset": "Set5", "protocol": protocol, "psnr": 1.0},
        {"kind": "val", "iter": 20, "dataset": "Set5", "protocol": protocol, "psnr": psnr, "ssim": 0.9},
    ]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "va')
    torch.save({"params": {}}, folder / "models/net_g_20.pth")
    torch.save({"params": {}}, folder / "models/net_g_9.pth")
    return folder


def test_card_of_the_last_validation_with_controls(tmp_path, capsys):
    run = make_run(tmp_path, "taught", 30.5)
    alone, other = make_run(tmp_path, "alone", 30.25), make_run(tmp_path, "rgb", 29.0, "RGB, no crop, BI x4")
    assert main(["card", str(run), "--control", str(alone), str(other)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "README.md")
    text = (run / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0" and head["metrics"] == ["psnr", "ssim"] and "x4" in head["tags"]
    result = head["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "Set5" and result["metrics"][0]["value"] == 30.5
    assert "Protocol: Y channel, crop 4, BI x4 (validation at iteration 20)" in text
    assert "| alone (control) | 30.25 (-0.250) | 0.9000 (+0.000) |" in text
    assert "another protocol: RGB" in text and "29.00" not in text
    assert "taught by spandrel" in text and "| output | L1Loss | 0.25 |" in text and "net_g_20.pth" in text
    assert "network_t: {type: spandrel, path: dat.pth}" in text and "/home/somebody" not in text


def test_results_of_a_test_come_first_and_a_missing_control_is_said(tmp_path):
    run = make_run(tmp_path, "taught", 30.5)
    results = tmp_path / "results/taught"
    results.mkdir(parents=True)
    held = {"results": [{"dataset": "B100", "protocol": "Y", "mean": {"psnr": 27.5}}]}
    (results / "results.json").write_text(json.dumps(held))
    assert main(["card", str(run), "-o", str(tmp_path / "card.md"), "--license", "mit"]) == 0
    text = (tmp_path / "card.md").read_text()
    assert "27.50" in text and "by `kdsr test`" in text and "30.50" not in text
    assert "No control run was given" in text and yaml.safe_load(text.split("---")[1])["license"] == "mit"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda run: (run / "history.jsonl").unlink(), "nothing was measured"),
        (lambda run: (run / "options.yml").unlink(), "0 option files"),
        (lambda run: (run / "second.yml").write_text(OPTIONS), "2 option files"),
        (lambda run: run.rename(run.with_name("moved")), "no such run"),
    ],
)
def test_what_is_no_finished_run(tmp_path, capsys, spoil, sentence):
    run = make_run(tmp_path, "taught", 30.5)
    spoil(run)
    assert main(["card", str(run)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
