"""A small input, a student and a teacher that is better than it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.registry import build
from tests.helpers.images import texture
from tests.upscale.conftest import make_video  # noqa: F401  (a fixture)

STUDENT = {"type": "PlainSR", "scale": 2, "num_feat": 4, "num_block": 1, "residual": "bicubic"}


@pytest.fixture
def clip_folder(tmp_path):
    """Twelve frames of 48x64 pixels, of two scenes."""
    folder = tmp_path / "clip"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for scene in range(2):
        wide = texture(48, 64 + 16, rng)
        for shift in range(6):
            cv2.imwrite(str(folder / f"{6 * scene + shift:03d}.png"), wide[:, shift : shift + 64])
    return folder


@pytest.fixture
def spoiled_student(tmp_path):
    """The weights of a student that adds noise to the bicubic enlargement: any step towards the teacher helps."""
    torch.manual_seed(0)
    net = build("network", STUDENT, "network")
    with torch.no_grad():
        net.tail.weight.mul_(20)
    path = tmp_path / "student.pth"
    torch.save({"params": net.state_dict()}, path)
    (tmp_path / "student.yml").write_text("network: " + str(STUDENT).replace("'", '"') + "\nscale: 2\n")
    return path
