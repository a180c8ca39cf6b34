"""The page of methods names every loss that is there, and option files that use it."""

import re

import pytest

from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.registry import is_ours, lookup, names
from tests.helpers import ROOT

ROWS = [line for line in (ROOT / "docs/methods.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]


def _types(row):
    return re.findall(r"`(\w+)`", row.split("|")[1])


def test_every_loss_of_ours_has_a_row():
    losses = [name for name in names("loss") if is_ours(lookup("loss", name))]
    ours = {name for name in losses if issubclass(lookup("loss", name), DistillLoss)}
    assert ours - {"MotionCompensationLoss"} == {name for row in ROWS for name in _types(row)} & ours


@pytest.mark.parametrize("row", ROWS, ids=lambda row: _types(row)[0])
def test_what_a_row_says(row):
    losses = [lookup("loss", name) for name in _types(row)]
    store, file = (cell.strip() for cell in row.split("|")[4:6])
    assert all(getattr(loss, "live_teacher", False) == (store == "no") for loss in losses)
    if file:
        text = (ROOT / "options" / file.strip("`")).read_text(encoding="utf-8")
        assert any(f"type: {name}" in text for name in _types(row))
