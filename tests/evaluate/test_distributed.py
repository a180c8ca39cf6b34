"""Two processes share the items and get the numbers of one."""

from functools import partial
from pathlib import Path

import torch

from kdsr_arch.archs.bicubic_arch import Bicubic
from kdsr_arch.errors import UserError
from kdsr_arch.parallel import distributed
from tests.helpers.messages import missing
from tests.helpers.networks import Recurrent
from tests.helpers.options import evaluator
from tests.helpers.processes import Process, in_two_processes


def work(launcher: str, folder: Path) -> None:
    """Score images and clips, and write the numbers into a file named after the rank."""
    distributed.start(launcher)
    torch.manual_seed(0)
    sizes = range(12, 17)
    samples = [{"lq": torch.rand(3, 16, w), "gt": torch.rand(3, 32, 2 * w), "name": f"i{w - 12}"} for w in sizes]
    scores = evaluator(metrics={"psnr": {"type": "calculate_psnr", "crop_border": 0}})
    result = scores.run(Bicubic(2), samples, torch.device("cpu"), progress=False)
    line = repr((result.mean, result.per_item, result.protocol))
    net = Recurrent()
    clips = [{"lq": torch.rand(t, 3, 16, 16), "gt": torch.rand(t, 3, 32, 32), "name": f"c{t}"} for t in (4, 2, 3)]
    for part in (clips, clips[:1]):  # more processes than clips as well
        result = scores.run(net, part, torch.device("cpu"), progress=False)
        line += repr((result.mean, result.per_item, result.frame_mean))
    samples[3]["gt"] = torch.rand(3, 99, 99)
    try:
        scores.run(Bicubic(2), samples, torch.device("cpu"), progress=False)
    except UserError as error:
        line += " refused: " + str(error)
    (folder / str(distributed.rank())).write_text(line)
    distributed.stop()


def test_two_processes_equal_one(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    assert Process(partial(work, "none", folders[0]), tmp_path / "output").finish() == (0, "")
    in_two_processes(partial(work, "pytorch", folders[1]), tmp_path)
    alone = (folders[0] / "0").read_text()
    assert not missing(alone, "refused", "'i3'", "LR", "HR") and alone.count("i4") == 1 and alone.count("c4") == 2
    assert (folders[1] / "0").read_text() == (folders[1] / "1").read_text() == alone
