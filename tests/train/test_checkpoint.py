"""State files: whole or absent, data only, told apart from other experiments'."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from kdsr_arch.train.checkpoint import load_state, random_states, random_states_kept, set_random_states
from kdsr_arch.train.resume import find_latest
from kdsr_arch.train.run_files import Checkpoints
from tests.helpers.messages import refuses


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
    ]


def test_random_states_survive_the_disk(tmp_path: Path) -> None:
    random.gauss(0, 1)
    np.random.randn()  # leaves a second Gaussian waiting in both
    torch.save(random_states(), tmp_path / "r")
    first = draw()
    set_random_states(torch.load(tmp_path / "r", weights_only=True))
    assert draw() == first


def test_random_states_kept() -> None:
    states = random_states()
    expected = draw()
    set_random_states(states)
    with random_states_kept():
        draw()
    assert draw() == expected


def saved(root: Path, *iterations: int, keep_last: int = 0) -> Checkpoints:
    checkpoints = Checkpoints(root, {"name": "a"}, keep_last)
    checkpoints.make_folders()
    for iteration in iterations:
        rest = {"random": [], "best": {}, "ranking": {}, "meter": [], "ratios": {}, "skipped": [0, 0]}
        state = {"model": {"w": torch.arange(1000.0)}, **rest}
        checkpoints.save(iteration, {"net_g": {"params": {"w": torch.ones(3)}}}, state)
    return checkpoints


def test_save_writes_basicsrs_names_and_loads_as_data(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["5.state", "net_g_5.pth"]
    state = load_state(tmp_path / "training_states" / "5.state")
    assert state["iter"] == 5 and torch.equal(state["model"]["w"], torch.arange(1000.0))


def test_newest_by_number_not_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 9, 10, 100)
    path, state, passed = find_latest(tmp_path / "training_states")
    assert path is not None and path.name == "100.state" and state is not None and not passed


def test_keep_last_thins_out_states_and_networks_alike(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 5, 10, keep_last=2)
    checkpoints.save_networks("best", {"net_g": {"params": {}}})
    saved(tmp_path, 100, keep_last=2)
    assert sorted(p.name for p in (tmp_path / "training_states").iterdir()) == ["10.state", "100.state"]
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [
        "net_g_10.pth",
        "net_g_100.pth",
        "net_g_best.pth",
    ]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    position = content.find(torch.arange(500.0, 501.0).numpy().tobytes())
    content[position] ^= 1  # a single bit, inside a tensor
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("no state at all\n")


def _pickled(path: Path) -> None:
    torch.save({"format": "kdsr-training-state", "bomb": Path("x")}, path)


def _other(path: Path) -> None:
    torch.save([1, 2], path)


@pytest.mark.parametrize("harm", [_truncate, _flip, _empty, _text, _pickled, _other])
def test_a_harmed_state_is_refused_and_passed_over(harm, tmp_path: Path) -> None:
    saved(tmp_path, 5, 10)
    path = tmp_path / "training_states" / "10.state"
    harm(path)
    with refuses(path):
        load_state(path)
    latest, _, passed = find_latest(tmp_path / "training_states")
    assert latest is not None and latest.name == "5.state"
    assert len(passed) == 1 and "10.state" in passed[0]


def test_basicsrs_own_state_is_explained(tmp_path: Path) -> None:
    from basicsr.models.lr_scheduler import MultiStepRestartLR

    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    scheduler = MultiStepRestartLR(optimizer, [3])
    folder = tmp_path / "training_states"
    folder.mkdir()
    state = {"epoch": 1, "iter": 7, "optimizers": [optimizer.state_dict()], "schedulers": [scheduler.state_dict()]}
    torch.save(state, folder / "7.state")
    with refuses(folder / "7.state", "BasicSR", "path.pretrain_network_g", tmp_path / "models" / "net_g_7.pth"):
        load_state(folder / "7.state")


def test_missing_state_is_told(tmp_path: Path) -> None:
    with refuses(tmp_path / "1.state"):
        load_state(tmp_path / "1.state")
    assert find_latest(tmp_path / "none") == (None, None, [])


def test_newer_format_is_told(tmp_path: Path) -> None:
    torch.save({"format": "kdsr-training-state", "version": 99}, tmp_path / "1.state")
    with refuses(tmp_path / "1.state", 99):
        load_state(tmp_path / "1.state")
