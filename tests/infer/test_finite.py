"""NaN and infinity never become black and white pixels: the frame and the network are named, whatever is restored."""

import numpy as np
import pytest
import torch

from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import Traits
from kdsr_arch.upscale.dispatch import choose_amp
from kdsr_arch.upscale.images import upscale_file, upscale_folder
from kdsr_arch.upscale.picture import Picture
from kdsr_arch.upscale.picture_output import write_picture
from tests.helpers.messages import refuses
from tests.helpers.options import evaluator

CPU = torch.device("cpu")


class Overflowing(torch.nn.Module):
    """Repeats pixels; where one is brighter than 0.9, that pixel is ``value``."""

    traits = Traits("image", 2)

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.where(x > 0.9, self.value, x)
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.fixture(params=[float("nan"), float("inf"), -float("inf")])
def broken(request):
    return Restorer(Runner(Overflowing(request.param), Overflowing.traits), CPU)


def frame(bright: bool) -> np.ndarray:
    image = np.full((8, 9, 3), 100, np.uint8)
    image[4, 5, 1] = 255 if bright else 101
    return image


def test_images_and_folders(broken, tmp_path):
    for number in range(3):
        write_picture(tmp_path / f"in/{number}.png", Picture(frame(bright=number == 1)))
    upscale_file(broken, tmp_path / "in/0.png", tmp_path / "0.png")
    with refuses(tmp_path / "in/1.png", "Overflowing"):
        upscale_file(broken, tmp_path / "in/1.png", tmp_path / "1.png")
    with refuses(tmp_path / "in/1.png", "Overflowing"):
        upscale_folder(broken, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "1.png").exists() and not (tmp_path / "out/1.png").exists()


def test_evaluation(broken, tmp_path):
    lq = torch.from_numpy(np.stack([frame(False), frame(True)])).permute(0, 3, 1, 2) / 255
    tested = evaluator(2, metrics=None)
    net = broken.runner.net
    with refuses("portrait", "Overflowing"):
        tested.run(net, [{"lq": lq[1], "name": "portrait"}], CPU, tmp_path, progress=False)
    with refuses("walk, frame 007", "Overflowing"):
        tested.run(net, [{"lq": lq, "name": "walk", "frames": ["006", "007"]}], CPU, tmp_path, progress=False)
    assert not (tmp_path / "portrait.png").exists() and not (tmp_path / "walk/007.png").exists()


def test_the_precision_is_named(tmp_path):
    restorer = Restorer(Runner(Overflowing(torch.inf), Overflowing.traits), CPU, amp="bf16")
    write_picture(tmp_path / "a.png", Picture(frame(True)))
    with refuses(tmp_path / "a.png", "bf16", "fp32"):
        upscale_file(restorer, tmp_path / "a.png", tmp_path / "b.png")


@pytest.mark.parametrize(("half", "chosen"), [(True, "fp16"), (False, "no")])
def test_half_precision_is_not_chosen_for_a_network_that_cannot(half, chosen):
    opened = Opened(torch.nn.Identity(), Traits("image", 2, half=half), {"type": "X"})
    assert choose_amp("auto", torch.device("cuda"), opened) == chosen
    assert choose_amp("auto", CPU, opened) == "no"
    assert choose_amp("fp16", torch.device("cuda"), opened) == "fp16"
