"""Stages are functions of the iteration alone."""

import pytest
from torch import nn

from kdsr_arch.distill.stages import parse_stages, stage_at
from kdsr_arch.errors import UserError

NET = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
TERMS = ["spatial", "temporal", "pixel"]


def test_iterations_count_from_one_and_the_last_stage_goes_on():
    stages = parse_stages([{"iters": 10, "terms": ["pixel"]}, {"iters": 5, "freeze": ["0"]}], TERMS, NET)
    active = [[t for t in TERMS if stage_at(stages, i).runs(t)] for i in (1, 10, 11, 15, 16, 10**9)]
    assert active == [["pixel"], ["pixel"], TERMS, TERMS, TERMS, TERMS]
    assert [stage_at(stages, i).freeze for i in (10, 11, 999)] == [(), ("0",), ("0",)]


def test_no_stages_is_one_endless_stage():
    assert stage_at(parse_stages(None, TERMS, NET), 12345).runs("spatial")


@pytest.mark.parametrize(
    "stage, message",
    [
        ({"iters": 1, "terms": ["spatail"]}, "'spatial'"),
        ({"iters": 1, "freeze": ["2"]}, "'2' is no module"),
        ({"iters": 1, "terms": []}, "needs a term"),
    ],
)
def test_wrong_names_are_refused(stage, message):
    with pytest.raises(UserError, match=message):
        parse_stages([stage], TERMS, NET)
