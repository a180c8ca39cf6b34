"""Sums of losses, and the first that is not finite."""

from __future__ import annotations

import pytest
import torch

from kdsr_arch.train.meter import Meter

CPU = torch.device("cpu")


def values(**named: float) -> dict[str, torch.Tensor]:
    return {k: torch.tensor(v) for k, v in named.items()}


def test_means_over_changing_sets_of_names() -> None:
    meter = Meter(CPU)
    meter.add(values(a=1.0, b=2.0), 1)
    meter.add(values(a=3.0), 2)
    meter.add(values(a=5.0, b=4.0), 3)
    assert meter.means() == {"a": 3.0, "b": 3.0}
    assert meter.means() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_culprit_is_named_even_when_looked_for_late(bad: float) -> None:
    meter = Meter(CPU)
    meter.add(values(a=1.0, b=1.0), 1)
    meter.add(values(a=1.0, b=bad), 2)
    meter.add(values(a=bad, b=bad), 3)
    assert meter.first_bad() == (2, ["b"])


def test_suspicion_comes_one_question_late_and_without_waiting(device: torch.device) -> None:
    meter = Meter(device)
    assert not meter.suspects()
    meter.add({"a": torch.tensor(1.0, device=device)}, 1)
    assert not meter.suspects()
    meter.add({"a": torch.tensor(float("nan"), device=device)}, 2)
    assert not meter.suspects()
    if device.type == "cuda":
        torch.cuda.synchronize()
    assert meter.suspects() and meter.first_bad() == (2, ["a"])


def test_state_carries_the_open_window() -> None:
    whole, first, second = Meter(CPU), Meter(CPU), Meter(CPU)
    for it in range(1, 6):
        whole.add(values(a=0.1 * it), it)
        if it == 3:
            second.load_state(first.state())
        (first if it < 3 else second).add(values(a=0.1 * it), it)
    assert second.means() == whole.means()


def test_state_is_a_copy() -> None:
    meter = Meter(CPU)
    meter.add(values(a=1.0), 1)
    state = meter.state()
    meter.add(values(a=1.0), 2)
    assert state[0]["total"].item() == 1.0
