"""The short form of benchmarks/kills.py: killed at random moments and within a save, each kind of training ends where
the unbroken one does. Forked processes save the seconds of imports; the recorded campaign pays them.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import kills, run_outcome
from benchmarks.tiny_runs import make_data, tiny_options, write_options
from tests.helpers.messages import refuses
from tests.helpers.processes import Child


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "campaign"), [("image", "sigkill"), ("std", "sigkill"), ("staged", "sigterm"), ("image", "workers")]
)
def test_killed_trainings_end_where_the_unbroken_one_does(kind, campaign, tmp_path) -> None:
    record = kills.Campaign(kind, campaign, kills=4, total=30, start=Child).run(tmp_path)
    assert record["differences"] == [] and record["equal"]
    assert record["kills_survived"] >= 2  # on a machine in a hurry, the last moments may come after the end


def test_a_training_that_fails_is_told(tmp_path) -> None:
    campaign = kills.Campaign("image", "sigkill", kills=1, total=6, start=Child)
    with refuses("ended with 2", tmp_path / "none.yml", kind=kills.Failed):
        campaign._kill(tmp_path / "none.yml", kills.Moment("anywhere", 3, 0.0), tmp_path, random.Random(0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment folder of an unbroken training of 9 iterations."""
    root = tmp_path_factory.mktemp("finished")
    make_data(root / "data")
    assert Child(write_options(root, tiny_options("image", root / "data", 9))).finish()[0] == 0
    return root / "experiments" / "tiny"


def one_bit(tensor: torch.Tensor) -> None:
    tensor.view(-1).view(torch.int32)[0] ^= 1


def change_state(part: Callable[[dict], torch.Tensor]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "training_states" / "9.state"
        state = torch.load(path, weights_only=True)
        one_bit(part(state["model"]))
        torch.save(state, path)

    return change


def change_history(folder: Path) -> None:
    path = folder / "history.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[-1]["psnr"] *= 1 + 1e-15
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


CHANGES = {
    "net_g.": change_state(lambda model: model["net_g"]["conv_first.weight"]),
    "net_g_ema.": change_state(lambda model: model["net_g_ema"]["conv_first.weight"]),
    "train_only.": change_state(lambda model: max(model["train_only"].values(), key=torch.Tensor.numel)),
    "optimizer.": change_state(lambda model: model["optimizer"]["state"][0]["exp_avg"]),
    ".history": change_history,
    "left behind": lambda folder: (folder / "models" / ".net_g_3.pth.7.tmp").touch(),
    "numbered files": lambda folder: (folder / "models" / "net_g_2.pth").touch(),
}


@pytest.mark.parametrize("where", CHANGES)
def test_the_smallest_difference_is_seen(where, finished, tmp_path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    assert run_outcome.differences(finished, copy, 9) == []
    CHANGES[where](copy)
    (difference,) = run_outcome.differences(finished, copy, 9)
    assert where in difference
