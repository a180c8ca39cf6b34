"""The checks of messages fail where a message lacks a name."""

import pytest

from kdsr_arch.errors import UserError
from tests.helpers.messages import missing, refuses

TEXT = "x.yml, line 3: train.total_itre is unknown (did you mean 'total_iter'?); got (2, 16, 8), 40x40"


def test_a_message_that_names_everything() -> None:
    assert missing(TEXT, "train.total_itre", "x.yml", 3, (2, 16, 8), "40x40", near="total_iter") == []


@pytest.mark.parametrize("name", ["total_it", "rain.total_itre", "40x4", "0x40", (2, 16), "train.total_iter", "y"])
def test_a_part_of_a_word_is_no_name(name: object) -> None:
    assert missing(TEXT, name) == [str(name)]


def test_the_name_that_is_suggested_stands_in_quotes() -> None:
    assert missing(TEXT, near="train.total_itre") == ["'train.total_itre'"]


def test_another_message_or_error_or_none_fails() -> None:
    with pytest.raises(AssertionError, match="no b in: a"), refuses("a", "b"):
        raise UserError("a")
    with pytest.raises(AssertionError, match="names one of c, b: a b"), refuses("a", without=["c", "b"]):
        raise UserError("a b")
    with pytest.raises(ValueError), refuses("a"):
        raise ValueError("a")
    with pytest.raises(pytest.fail.Exception), refuses():
        pass
