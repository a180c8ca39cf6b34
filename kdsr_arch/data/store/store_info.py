"""What JSON files beside stored maps must say; checked when a store is opened, so that nothing later is surprised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdsr_arch.errors import UserError

__all__ = ["TeacherInfo", "read_info"]

_Side = Annotated[int, Field(ge=0, lt=1 << 31)]
_Count = Annotated[int, Field(ge=1, lt=1 << 31)]
_Size = Annotated[list[_Side], Field(min_length=2, max_length=2)]
_Place = Annotated[list[_Side], Field(min_length=4, max_length=4)]


class _Info(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Maps(_Info):
    ratio: _Count
    channels: _Count


class TeacherInfo(_Info):
    """``teacher.json`` (:class:`~kdsr_arch.data.store.teacher_store.TeacherStore`)."""

    scale: _Count
    images: dict[str, _Size]
    names: dict[str, _Maps]
    orientations: Annotated[list[Annotated[int, Field(ge=0, lt=8)]], Field(min_length=1)]
    windows: dict[str, Annotated[list[_Place], Field(min_length=1)]] | None = None
    num_frame: _Count = 1
    backwards: bool = False


def read_info(path: Path, form: type[_Info], told: str) -> dict[str, Any]:
    """The content of such a file, as it stands there.

    Raises:
        UserError: missing, not readable, or not of that form; `told` is the message.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        form.model_validate(content)
    except (OSError, ValueError, RecursionError) as error:  # pydantic's faults and undecodable text are ValueErrors
        faults = error.errors() if isinstance(error, ValidationError) else []
        places = sorted({".".join(map(str, fault["loc"])) for fault in faults})[:3]
        raise UserError(told + (f" ({path.name}: {', '.join(places)})" if any(places) else "")) from None
    return content
