"""Stages are functions of the iteration alone."""

import pytest
from torch import nn

from kdsr_arch.distill.stages import parse_stages
from kdsr_arch.options.schema_train import StageOptions
from tests.helpers.messages import refuses

NET = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
TERMS = ["spatial", "temporal", "pixel"]


def parsed(*stages):
    return parse_stages([StageOptions.model_validate(stage) for stage in stages], TERMS, NET)


def stage_at(stages, iteration):
    return next(stage for stage in stages if iteration <= stage.last)


def test_iterations_count_from_one_and_the_last_stage_goes_on():
    stages = parsed({"iters": 10, "terms": ["pixel"]}, {"iters": 5, "freeze": ["0"]})
    active = [[t for t in TERMS if t in stage_at(stages, i).terms] for i in (1, 10, 11, 15, 16, 10**9)]
    assert active == [["pixel"], ["pixel"], TERMS, TERMS, TERMS, TERMS]
    assert [stage_at(stages, i).freeze for i in (10, 11, 999)] == [(), ("0",), ("0",)]


def test_no_stages_is_one_endless_stage():
    assert "spatial" in stage_at(parsed(), 12345).terms


@pytest.mark.parametrize(
    "stage, names",
    [
        ({"iters": 1, "freeze": ["2"]}, ["train.stages.0.freeze", "'2'"]),
        ({"iters": 1, "terms": []}, ["train.stages.0.terms"]),
    ],
)
def test_wrong_names_are_refused(stage, names):
    with refuses(*names):
        parsed(stage)
