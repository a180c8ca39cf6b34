"""Video teachers and clips that do not fit their student: one sentence before training, naming what to change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdsr_arch import errors
from kdsr_arch.cli import main
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.registry import register_all
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network
from tests.helpers.options import make_task

register_all()
IMAGES = {"lq": torch.rand(1, 3, 16, 16), "gt": torch.rand(1, 3, 64, 64)}
TERMS = {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"hint": {"type": "MSELoss", "at": "f_sr"}}}
STUDENT = {"type": "VESPCN", "num_feat": 4, "num_hr_feat": 4, "num_block": 1, "num_flow_feat": 4}
EDVR = {"type": "EDVR", "num_feat": 8, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1}
RECURRENT = [({"type": "BasicVSR", "num_feat": 8, "num_block": 1}, 40),
             ({"type": "BasicVSRPlusPlus", "mid_channels": 8, "num_blocks": 1}, 64)]  # fmt: skip


def test_a_teacher_of_another_scale() -> None:
    with refuses("EDVR", 4, 2):
        make_task(
            make_network({**STUDENT, "scale": 2}),
            make_network(EDVR),
            TERMS,
            IMAGES,
            scale=2,
        )
    with refuses("VESPCN", 2, 4):
        make_task(
            make_network({**STUDENT, "scale": 2}),
            make_network(EDVR),
            TERMS,
            IMAGES,
            scale=4,
        )


@pytest.mark.parametrize(("teacher", "side"), RECURRENT, ids=lambda v: v["type"] if isinstance(v, dict) else "")
def test_a_recurrent_teacher_given_single_windows(teacher, side) -> None:
    window = {"lq": torch.rand(1, 3, 3, side, side), "gt": torch.rand(1, 1, 3, 4 * side, 4 * side)}
    with refuses(teacher["type"], 2, 1, "clip_length"):
        make_task(make_network(STUDENT), make_network(teacher), TERMS, window, scale=4)


@pytest.mark.parametrize(("teacher", "side"), RECURRENT, ids=lambda v: v["type"] if isinstance(v, dict) else "")
def test_recurrent_features_are_those_of_each_frame_of_the_clip(teacher, side) -> None:
    """From F^SR of frame i alone, the rest of the network gives frame i."""
    net = make_network(teacher).eval()
    clip, seen = torch.rand(1, 4, 3, side, side), []
    net.conv_hr.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    with torch.no_grad():
        restored = net(clip)
        assert len(seen) == 4
        for number, feature in enumerate(seen):
            base = functional.interpolate(clip[:, number], scale_factor=4, mode="bilinear", align_corners=False)
            rest = net.conv_last(functional.leaky_relu(feature, 0.1)) + base
            torch.testing.assert_close(rest, restored[:, number], atol=1e-5, rtol=0)


def test_image_data_for_a_video_student() -> None:
    with refuses("EDVR", 5, "(1, 3, 16, 16)"):
        make_task(make_network(STUDENT), make_network(EDVR), TERMS, IMAGES, scale=4)


def write_clips(root, lengths, side=64) -> None:
    import cv2

    for name, length in lengths.items():
        (root / name).mkdir(parents=True)
        for number in range(length):
            noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
            cv2.imwrite(str(root / name / f"{number:08d}.png"), noise)


def clips(root, **changes) -> ClipDataset:
    opt = {"name": "clips", "phase": "train", "dataroot_gt": str(root), "scale": 4, "gt_size": 32, "clip_length": 3,
           "num_frame": 3}  # fmt: skip
    return ClipDataset(**{**opt, **changes})


def test_clips_of_mixed_lengths_and_sizes_train_together(tmp_path) -> None:
    write_clips(tmp_path, {"long": 6, "short": 3})
    write_clips(tmp_path, {"small": 4}, side=32)
    dataset = clips(tmp_path)
    assert len(dataset) == 4 + 1 + 2
    shapes = {tuple(dataset.sample(i, np.random.default_rng(i))["lq"].shape) for i in range(len(dataset))}
    assert shapes == {(5, 3, 8, 8)}


def test_a_clip_shorter_than_what_a_sample_needs(tmp_path) -> None:
    write_clips(tmp_path, {"000": 6, "001": 2})
    with refuses(tmp_path, "'001'", 2, "num_frame 3", "clip_length 3"):
        clips(tmp_path)
    assert len(clips(tmp_path, exclude=["001"])) == 4


def test_missing_frame_numbers_are_named_once(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(errors, "_said", set())
    write_clips(tmp_path, {"000": 7})
    (tmp_path / "000" / "00000003.png").unlink()
    for _ in range(2):
        clips(tmp_path)
    warning = "clip '000' has no frames between '000/00000002' and '000/00000004'; they are taken for neighbors"
    assert caplog.text.count(warning) == 1


def test_frames_of_one_clip_that_differ_in_size_end_training_at_once(tmp_path, capsys) -> None:
    import cv2
    import yaml

    write_clips(tmp_path / "hr", {"000": 5})
    cv2.imwrite(str(tmp_path / "hr" / "000" / "00000002.png"), np.zeros((64, 60, 3), np.uint8))
    data = {"name": "c", "type": "ClipDataset", "dataroot_gt": str(tmp_path / "hr"), "gt_size": 32, "num_frame": 3,
            "batch_size_per_gpu": 1, "num_worker_per_gpu": 0}  # fmt: skip
    opt = {"name": "bad", "model_type": "VideoDistillModel", "scale": 4, "num_gpu": 0, "network_g": STUDENT,
           "datasets": {"train": data}, "train": {"total_iter": 1, "optim_g": {"type": "Adam", "lr": 1e-3},
                                                  "pixel_opt": {"type": "L1Loss"}}}  # fmt: skip
    (tmp_path / "opt.yml").write_text(yaml.safe_dump(opt))
    assert main(["train", "-opt", str(tmp_path / "opt.yml"), "--root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "000/00000002.png is 16x15 as LR, other frames of the clip are 16x16" in said and "Traceback" not in said
    assert not (tmp_path / "experiments").exists()
