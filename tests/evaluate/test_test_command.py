"""`kdsr test` through the command line, on a small folder of clips."""

import csv
import json
import shutil

import pytest
import torch

from kdsr_arch.cli import main
from tests.helpers.images import write_textures

OPTIONS = """
name: bicubic
model_type: VideoDistillModel
scale: 2
num_gpu: 0
datasets:
  test_1: {{name: clips, type: ClipDataset, dataroot_gt: {root}/clips, degradation: BI}}
  test_2: {{name: images, type: ImagePairDataset, dataroot_gt: {root}/clips/walk, degradation: BI}}
network_g: {{{network}}}
path: {{pretrain_network_g: {weights}}}
val:
  save_img: true
  metrics:
    psnr: {{type: calculate_psnr, crop_border: 2, test_y_channel: true}}
    ssim: {{type: calculate_ssim, crop_border: 2, test_y_channel: true}}
"""


@pytest.fixture
def project(tmp_path):
    for clip, frames in (("walk", 3), ("city", 2)):
        write_textures(tmp_path / "clips" / clip, frames, 32, 40, digits=8)
    (tmp_path / "options").mkdir()
    return tmp_path


def write(project, network="type: Bicubic, scale: 2", weights="~", text=OPTIONS):
    file = project / "options" / "test.yml"
    file.write_text(text.format(root=project, network=network, weights=weights))
    return file


def test_tables_frames_and_costs(project, capfd):
    assert main(["test", "-opt", str(write(project))]) == 0
    folder = project / "results" / "bicubic"
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [(r["dataset"], r["item"], r["frames"]) for r in rows if r["dataset"] == "clips"] == [
        ("clips", "city", "2"),
        ("clips", "walk", "3"),
        ("clips", "mean", "5"),
    ]
    assert len([r for r in rows if r["dataset"] == "images"]) == 4
    clips = [float(r["psnr"]) for r in rows if r["dataset"] == "clips"]
    assert clips[2] == pytest.approx((clips[0] + clips[1]) / 2, abs=1e-5)
    content = json.loads((folder / "results.json").read_text())
    assert content["cost"]["parameters"] == 0 and content["cost"]["width"] == 180
    assert content["results"][0]["protocol"] == "Y channel, crop 2, all frames, BI x2"
    assert content["results"][0]["ground_truth"] == [str(project / "clips")]
    assert main(["compare", str(folder), "-o", str(project / "page.html")]) == 0  # with that ground truth
    assert "Y channel, crop 2, all frames, BI x2" in (folder / "results.md").read_text()
    saved = sorted(p.relative_to(folder / "visualization").as_posix() for p in folder.rglob("*.png"))
    assert saved[:2] == ["clips/city/00000000.png", "clips/city/00000001.png"] and len(saved) == 8
    shown = capfd.readouterr()
    assert "mean over 2 clips: psnr" in shown.out + shown.err


def test_a_second_test_overwrites_nothing(project, capfd):
    """Same name, other weights: as in BasicSR, the earlier results are renamed."""
    assert main(["test", "-opt", str(write(project))]) == 0
    folder = project / "results" / "bicubic"
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
    assert main(["test", "-opt", str(write(project)), "--force_yml", "val:save_img=false"]) == 0
    (earlier,) = project.glob("results/bicubic_archived_*")
    assert {path.relative_to(earlier): path.read_bytes() for path in earlier.rglob("*.*")} == before
    assert sorted(path.name for path in folder.iterdir()) == ["results.csv", "results.json", "results.md"]
    assert not [*project.glob("results/.*")]


def test_a_damaged_image_in_the_last_set_costs_no_other(project, capfd):
    """Its header is sound; the damage shows when it is decoded."""
    shutil.copytree(project / "clips" / "walk", project / "last")
    damaged = project / "last" / "00000001.png"
    data = damaged.read_bytes()
    damaged.write_bytes(data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :])
    text = OPTIONS.replace("{root}/clips/walk", "{root}/last")
    assert main(["test", "-opt", str(write(project, text=text))]) == 2
    assert "00000001.png" in capfd.readouterr().err
    content = json.loads((project / "results" / "bicubic" / "results.json").read_text())
    assert [result["dataset"] for result in content["results"]] == ["clips"] and content["cost"] is None


def test_results_that_cannot_be_written_are_told_before_anything_is_tested(project, capfd):
    (project / "results").write_text("a file where the folder should be")
    assert main(["test", "-opt", str(write(project))]) == 2
    shown = capfd.readouterr()
    assert "results: cannot be written" in shown.err and "psnr" not in shown.out + shown.err


def test_two_test_sets_of_one_name_are_refused(project, capfd):
    """Their images and rows would be one another's."""
    assert main(["test", "-opt", str(write(project, text=OPTIONS.replace("name: images", "name: clips")))]) == 2
    assert "'clips'" in capfd.readouterr().err and not (project / "results").exists()


def test_refusals_leave_nothing(project, capfd):
    student = "type: VESPCN, scale: 2, num_feat: 4, num_hr_feat: 4, num_flow_feat: 4"
    other = project / "other.pth"
    torch.save({"params": {"weight": torch.zeros(3)}}, other)
    cases = [
        (student, "~", "pretrain_network_g is missing"),
        (student, other, "does not fit network VESPCN"),
        (student, project / "no.pth", "no such"),
        ("type: Bicubik", "~", "Bicubic"),
    ]
    for network, weights, sentence in cases:
        assert main(["test", "-opt", str(write(project, network, weights))]) == 2
        assert sentence in capfd.readouterr().err
    text = OPTIONS.replace("{root}/clips", "{root}/nowhere")
    assert main(["test", "-opt", str(write(project, text=text))]) == 2
    assert "nowhere" in capfd.readouterr().err
    assert not (project / "results").exists()
