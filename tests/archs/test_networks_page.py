"""Each row of docs/networks.md is what the network is."""

from __future__ import annotations

import re

import pytest
import yaml

from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.registry import ARCH_REGISTRY, register_all
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "networks.md"
_ROW = r"^\| `(\{type: .+\})` \| ([\d,]+) \| (.+?) \| (.+?) \|$"
ROWS = re.findall(_ROW, PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def _input(traits: Traits) -> str:
    """As the page says it."""
    one = {
        "image": {"lq": "image", "gt": "HR image", "both": "LR and HR image"}[traits.input],
        "window": f"{traits.num_frame} frames",
        "recurrent": "clip",
    }[traits.mode]
    if traits.upsampled_input:
        one = f"{traits.num_frame} enlarged frames" if traits.mode == "window" else f"enlarged {one}"
    return f"{one}, {'Y' if traits.color == 'y' else 'RGB'}"


def test_the_page_has_rows():
    assert len(ROWS) > 20


@pytest.mark.parametrize("options, parameters, takes, aliases", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_true(options: str, parameters: str, takes: str, aliases: str) -> None:
    register_all()
    keywords = yaml.safe_load(options)
    net = ARCH_REGISTRY.get(keywords.pop("type"))(**keywords)
    assert f"{count_parameters(net):,}" == parameters
    traits = traits_of(net, keywords.get("scale") or keywords.get("upscale") or 4)
    assert _input(traits) == takes
    assert set(aliases.split(", ")) <= set(traits.taps)
