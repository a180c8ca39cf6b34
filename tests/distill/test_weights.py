"""Weights of terms: constants, schedules, balances, their state."""

import math

import pytest

from kdsr_arch.distill.terms import TermWeight
from kdsr_arch.options.schema_train import WeightOptions


def parsed(spec):
    return TermWeight(WeightOptions.model_validate(spec) if isinstance(spec, dict) else spec)


def test_constant():
    assert parsed(0.25).at(7) == 0.25


@pytest.mark.parametrize(
    "iteration, expected",
    [
        (0, 0.0),
        (99, 0.0),
        (100, 0.0),
        (150, 0.5),
        (200, 1.0),
        (250, 0.75),
        (300, 0.5),
        (9999, 0.5),
    ],
)
def test_schedule_is_linear_between_points_and_constant_beyond(iteration, expected):
    weight = parsed({"schedule": [[100, 0], [200, 1.0], [300, 0.5]]})
    assert weight.at(iteration) == pytest.approx(expected)
    assert weight.ramps(iteration) == (iteration < 300)


def test_balance_is_the_median_of_the_last_ratios():
    weight = parsed({"balance": 0.5, "measurements": 3})
    assert weight.wants_measure() and weight.at(1) == 0
    weight.record(2.0, 1.0)
    assert not weight.wants_measure() and weight.at(1) == pytest.approx(1.0)
    for pixel in (4.0, 100.0, 6.0):  # 2 is no more among the last three
        weight.record(pixel, 1.0)
    assert weight.at(1) == pytest.approx(0.5 * 6)


def test_measurements_without_meaning_are_passed_over():
    weight = parsed({"balance": 1.0})
    for pixel, term in ((1.0, 0.0), (math.nan, 1.0), (1.0, math.inf), (0.0, 1.0)):
        weight.record(pixel, term)
    assert weight.wants_measure()


def test_forms_multiply():
    weight = parsed({"balance": 0.5, "schedule": [[0, 0], [10, 1]], "constant": 2.0})
    weight.record(3.0, 1.0)
    assert weight.at(5) == pytest.approx(2 * 0.5 * 0.5 * 3)


def test_state_is_restored():
    weight, other = (parsed({"balance": 0.3, "measurements": 4}) for _ in range(2))
    for ratio in (1.0, 5.0, 2.0):
        weight.record(ratio, 1.0)
    other.load_state_dict(weight.state_dict())
    assert other.at(3) == weight.at(3)
    for w in (weight, other):
        w.record(9.0, 1.0), w.record(7.0, 1.0)
    assert other.at(3) == weight.at(3) and list(other.ratios) == [5.0, 2.0, 9.0, 7.0]


def test_descriptions():
    assert parsed(0.1).describe() == "0.1"
    assert parsed({"schedule": [[0, 0], [10, 0.5]]}).describe() == "schedule 0:0 10:0.5"
    assert parsed({"balance": 0.3, "measurements": 5}).describe() == "balance 0.3 (5 measurements)"
