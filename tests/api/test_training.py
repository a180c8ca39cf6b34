"""`kdsr.train` is `kdsr train`, from a dict as from a file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import kdsr
from kdsr_arch.cli import main
from kdsr_arch.registry import LOSS_REGISTRY
from kdsr_arch.train import entry
from tests.helpers.messages import refuses


def options(folder: Path) -> dict[str, object]:
    """A training of two iterations on two images, which are written."""
    (folder / "gt").mkdir(exist_ok=True)
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "gt" / f"{number}.png"), image)
    data = {
        "type": "ImagePairDataset", "dataroot_gt": folder / "gt", "degradation": "BI", "gt_size": 16,
        "batch_size_per_gpu": 1, "num_worker_per_gpu": 0,
    }  # fmt: skip
    return {
        "name": "tiny", "model_type": "ImageDistillModel", "scale": 2, "num_gpu": 0, "datasets": {"train": data},
        "network_g": {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2},
        "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
    }  # fmt: skip


def latest(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "net_g_latest.pth", weights_only=True)["params"]


def test_a_dict_a_file_and_the_command_train_alike(tmp_path: Path) -> None:
    values = options(tmp_path)
    from_dict = kdsr.train(values, root=tmp_path / "a")
    assert from_dict == tmp_path / "a" / "experiments" / "tiny"
    values["datasets"]["train"]["dataroot_gt"] = str(tmp_path / "gt")  # type: ignore[index]
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(values))
    from_file = kdsr.train(tmp_path / "tiny.yml", root=tmp_path / "b")
    assert main(["train", "-opt", str(tmp_path / "tiny.yml"), "--root", str(tmp_path / "c")]) == 0
    first, *others = (latest(folder) for folder in (from_dict, from_file, tmp_path / "c" / "experiments" / "tiny"))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    net = kdsr.load(from_dict / "models" / "net_g_latest.pth", device="cpu")  # its options lie beside it
    assert net(np.zeros((4, 6, 3), np.uint8)).shape == (8, 12, 3)


def test_a_finished_training_is_gone_on_from(tmp_path: Path) -> None:
    values = options(tmp_path)
    folder = kdsr.train(values, root=tmp_path)
    values["train"]["total_iter"] = 3  # type: ignore[index]
    assert kdsr.train(values, root=tmp_path, auto_resume=True) == folder
    assert (folder / "training_states" / "3.state").is_file() and (folder / "training_states" / "2.state").is_file()


def test_a_class_of_the_session_is_known(tmp_path: Path) -> None:
    class SessionLoss(kdsr.DistillLoss):
        """Mean of the student's output."""

        sides = "student"

        def forward(self, student: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return student.mean()

    LOSS_REGISTRY.register(SessionLoss)
    try:
        values = options(tmp_path)
        values["train"]["distill_opt"] = {"dark": {"type": "SessionLoss"}}  # type: ignore[index]
        assert (kdsr.train(values, root=tmp_path) / "models" / "net_g_latest.pth").is_file()
    finally:
        LOSS_REGISTRY._obj_map.pop("SessionLoss")


def test_faults_are_told_without_a_file(tmp_path: Path) -> None:
    values = options(tmp_path)
    values["scal"] = values.pop("scale")
    with refuses("options", "scal", near="scale", without=["options.yml"]):
        kdsr.train(values)
    for wrong, names in (
        ({"name": object()}, ["options", "name", "object"]),
        ({"network_g": {"type": Path}}, ["network_g.type", "'Path'"]),
        ({"datasets": [{"a": {1, 2}}]}, ["datasets[0].a", "set"]),
        ({"name": "1e3"}, ["options", "model_type"]),  # the name is a text
        (None, ["options", "nothing"]),
        ([1], ["options", "list"]),
    ):
        with refuses(*names):
            kdsr.train(wrong)  # type: ignore[arg-type]
    with refuses("launcher", "'pytoch'", near="pytorch"):
        kdsr.train(values, launcher="pytoch")


def test_what_a_training_chooses_of_torch_ends_with_it(tmp_path: Path) -> None:
    values = options(tmp_path) | {"name": "1e3", "deterministic": True}
    assert kdsr.train(values, root=tmp_path).name == "1e3"
    assert not torch.are_deterministic_algorithms_enabled()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    values = options(tmp_path)
    values["scale"] = np.int64(2)
    values["train"] |= {"total_iter": np.int32(1), "grad_clip": np.float32(0.5)}  # type: ignore[operator]
    assert (kdsr.train(values, root=tmp_path) / "models" / "net_g_latest.pth").is_file()


@pytest.mark.parametrize("code, kind", [(130, KeyboardInterrupt), (143, SystemExit)])
def test_an_interrupt_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type) -> None:
    monkeypatch.setattr(entry, "main", lambda *_: code)
    with pytest.raises(kind):
        kdsr.train(options(tmp_path), root=tmp_path)


@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_the_callers_autocast_does_not_matter(amp: str, tmp_path: Path) -> None:
    """Within another autocast PyTorch would keep the weights of the first step as it has cast them."""
    values = options(tmp_path)
    values["train"] |= {"total_iter": 4, "amp": amp}  # type: ignore[operator]
    alone = latest(kdsr.train(values, root=tmp_path / "alone"))
    with torch.autocast("cpu", torch.bfloat16):
        inside = latest(kdsr.train(values, root=tmp_path / "inside"))
        assert torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled()
    assert all(torch.equal(alone[name], inside[name]) for name in alone)
