"""Checks of messages that do not freeze their wording: which key, file, shape and nearest name they give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from kdsr_arch.errors import UserError


def missing(text: str, *names: object, near: str | None = None) -> list[str]:
    """Return what a message does not say.

    Args:
        text: the message.
        names: keys, files, shapes, numbers; each must stand in it as a whole word.
        near: the name that it suggests, in quotes.
    """
    needed = [str(name) for name in names] + ([f"'{near}'"] if near else [])
    return [name for name in needed if not re.search(rf"(?<!\w(?=\w)){re.escape(name)}(?!(?<=\w)\w)", text)]


@contextmanager
def refuses(
    *names: object, near: str | None = None, without: Sequence[str] = (), kind: type[Exception] = UserError
) -> Iterator[None]:
    """Assert that the block raises an error whose message names what is wrong.

    Args:
        names: keys, files, shapes, numbers that the message must give.
        near: the name that it must suggest.
        without: names that it must not give.
        kind: class of the error.
    """
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert not (lacks := missing(text, *names, near=near)), f"no {', '.join(lacks)} in: {text}"
    assert missing(text, *without) == list(without), f"names one of {', '.join(without)}: {text}"
