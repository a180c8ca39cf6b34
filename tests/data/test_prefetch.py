"""Batches reach the device unchanged, and closing reaches the loader."""

from __future__ import annotations

import pytest
import torch

from kdsr_arch.data.prefetch import ahead_on_device, to_device


def batches(closed: list):
    try:
        for i in range(4):
            yield {"lq": torch.full((2, 3), float(i)), "key": [f"{i}"], "pair": (torch.tensor(i), "x")}
    finally:
        closed.append(True)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_every_batch_in_order(name):
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device, closed = torch.device(name), []
    found = list(ahead_on_device(batches(closed), device))
    assert [batch["key"] for batch in found] == [["0"], ["1"], ["2"], ["3"]] and closed
    for i, batch in enumerate(found):
        assert batch["lq"].device.type == name and batch["lq"].eq(i).all() and batch["pair"] == (i, "x")
    closed.clear()
    early = ahead_on_device(batches(closed), device)
    next(early)
    early.close()
    assert closed


def test_structures_are_kept():
    moved = to_device({"a": [torch.ones(1), "b"], "c": 3}, torch.device("meta"))
    assert moved["a"][0].device.type == "meta" and moved["a"][1] == "b" and moved["c"] == 3
