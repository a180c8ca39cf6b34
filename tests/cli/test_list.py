"""`kdsr list` names what an option file can name, imported classes among them."""

from __future__ import annotations

import pytest

from kdsr_arch.cli import main
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.registry import LOSS_REGISTRY, names


@pytest.mark.parametrize(
    "kind, name, whose",
    [
        ("losses", "FAKDLoss", "kdsr"),
        ("networks", "EDVR", "basicsr"),
        ("datasets", "ClipDataset", "kdsr"),
        ("metrics", "calculate_tof", "kdsr"),
        ("models", "SRModel", "basicsr"),
        ("optimizers", "Adam", "torch"),
        ("schedulers", "MultiStepLR", "torch"),
    ],
)
def test_list(kind: str, name: str, whose: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    rows = {words[0]: words for line in capsys.readouterr().out.splitlines() if len(words := line.split()) > 2}
    assert rows[name][1] == whose
    registered = {"datasets": "data set", "losses": "loss"}.get(kind, kind.removesuffix("s"))
    assert {row for row in rows if row != "kdsr"} <= {*names(registered)}


def test_list_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("DUKDLoss"))
    assert "arXiv 2309.14162" in line and "zoom-in" in line


def test_an_imported_class_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    class OwnLoss(DistillLoss):
        """What a test brings. And more."""

        about = About("own", "nobody, never", "0", "none")

    OwnLoss.__module__ = "my_project.losses"
    LOSS_REGISTRY.register(OwnLoss)
    try:
        for kind, text in (("losses", "What a test brings"), ("methods", "own (nobody, never)")):
            assert main(["list", kind]) == 0
            line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("OwnLoss"))
            assert line.endswith(text) and ("my_project" in line) == (kind == "losses")
    finally:
        LOSS_REGISTRY._obj_map.pop("OwnLoss")


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(SystemExit):
        main(["list", "nets"])
