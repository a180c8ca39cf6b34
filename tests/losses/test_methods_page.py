"""The page of methods is made of what stands at the losses, which is true of them and of the option files they name."""

import re

import pytest
import torch

from kdsr_arch.commands.list import _methods
from kdsr_arch.losses.about import about_of
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.options.documents import read_parts
from kdsr_arch.options.yaml_reader import parse_value
from kdsr_arch.registry import is_ours, lookup, names
from scripts.options_reference import methods
from tests.helpers import ROOT
from tests.helpers.networks import Image
from tests.helpers.options import make_task

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
OURS = [name for name in names("loss") if is_ours(lookup("loss", name))]


def test_every_loss_of_ours_says_what_it_is():
    ours = {name for name in OURS if issubclass(lookup("loss", name), DistillLoss)}
    assert {name for name in ours if about_of(lookup("loss", name)) is None} == set()
    assert ours <= set(methods()) == {name for name, *_ in _methods()}
    assert ours | {"L1Loss"} <= set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M))  # which test_explain compares as a whole


@pytest.mark.parametrize("name", methods())
def test_what_it_says_is_there(name):
    loss, about = methods()[name]
    assert about.method and about.formula and (about.paper or not is_ours(loss))
    if about.options:
        parts = read_parts(ROOT / "options" / about.options)
        types = {term["type"] for part in parts for term in part.values["train"]["distill_opt"].values()}
        assert name in types
    if about.use.startswith("{") and " to " not in about.use:
        keys = set(parse_value(about.use))
        assert keys <= {"at", "student", "teacher", "loss_weight"}


@pytest.mark.parametrize("name", ["FAKDLoss", "SPLoss", "VIDLoss", "DUKDLoss", "FFTLoss", "GradientLoss"])
def test_a_balanced_term_has_the_ratio_that_the_page_promises(name):
    batch = {"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)}
    about = about_of(lookup("loss", name))
    taps = {"at": "f_lr"} if "at:" in about.use else parse_value(about.use) if about.use.startswith("{") else {}
    term = {**taps, "type": name, "loss_weight": {"balance": 0.1}}
    pixel = {"type": "L1Loss"}
    task = make_task(Image(), Image(8), {"pixel_opt": pixel, "distill_opt": {"t": term}}, batch)
    assert task.measure(task(batch, 1), 1)["t"] == pytest.approx(0.1, rel=1e-4)


def test_a_part_for_each_key_of_a_class():
    part = PAGE.split("### FAKDLoss")[1].split("###")[0]
    assert re.findall(r"^- `(\w+)`", part, re.M) == [
        *("affinity", "criterion", "pool", "pool_mode", "tile", "memory_gib", "eps")
    ]
    assert "- `pool` (1): side of the windows" in part
