"""Notices about data that are worth one line, once per process."""

from __future__ import annotations

import logging

__all__ = ["notice"]

_said: set[str] = set()


def notice(topic: str, message: str) -> None:
    """Logs ``message`` as a warning, unless something was said on ``topic`` before."""
    if topic not in _said:
        _said.add(topic)
        logging.getLogger(__name__).warning(message)
