"""How long a video file says that it is, which tells whether all of it is there."""

from __future__ import annotations

from typing import Any

__all__ = ["missing_seconds", "promised_bytes", "tagged_seconds", "told_seconds"]


def promised_bytes(container: Any, stream: Any) -> int | None:
    """Where the index of an MP4 or MOV file says that its frames end, where the file ends before; else None."""
    entries = getattr(stream, "index_entries", None)
    if not container.format.name.startswith("mov") or not entries or not container.size:
        return None
    last = entries[len(entries) - 1]
    return last.pos + last.size if last.pos + last.size > container.size else None


def told_seconds(container: Any, stream: Any) -> float | None:
    """The length of the video stream; the file's where it holds nothing else."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tagged = tagged_seconds(stream)
    if tagged is None and container.duration and len(container.streams) == 1:
        return container.duration / 1_000_000
    return tagged


def tagged_seconds(stream: Any) -> float | None:
    """What the stream's tag DURATION says, as Matroska files have it."""
    text = {key.upper(): value for key, value in stream.metadata.items()}.get("DURATION", "")
    try:
        hours, minutes, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def missing_seconds(told: float | None, ended: float) -> bool:
    """Whether frames that end after ``ended`` seconds are too few for a file that tells ``told``."""
    return told is not None and ended < told - max(1.0, 0.02 * told)
