"""Everything that `kdsr export` writes: the formats, and the targets, which need tools of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdsr_arch.errors import UserError
from kdsr_arch.export.formats import ENDINGS, FORMATS, Deviation, format_of
from kdsr_arch.export.glsl import to_glsl
from kdsr_arch.export.ncnn import to_ncnn
from kdsr_arch.export.openvino import to_openvino
from kdsr_arch.export.tflite import to_tflite
from kdsr_arch.export.web import to_web

TARGETS: dict[str, Callable[..., list[Deviation]]] = {
    **FORMATS,
    "glsl": to_glsl,
    "openvino": to_openvino,
    "ncnn": to_ncnn,
    "tflite": to_tflite,
    "web": to_web,
}
SIZED = ("onnx", "tflite", "web")
"""Targets whose files may name an LR size."""
IN_INT8 = ("onnx", "openvino", "tflite", "web", "safetensors")
"""Targets that take students which compute in int8."""
_ENDINGS = {**ENDINGS, ".glsl": "glsl", ".xml": "openvino", ".param": "ncnn", ".tflite": "tflite", ".html": "web"}


def target_of(path: Path, named: str | None = None) -> str:
    """Tell what a file's ending asks for.

    Args:
        named: what it must be.

    Raises:
        UserError: an unknown ending, that of another target, or weights that would replace another target's.
    """
    kind = format_of(path, _ENDINGS)
    if named is not None and kind != named:
        ending = next(ending for ending, name in _ENDINGS.items() if name == named)
        raise UserError(f"{path}: --target {named} writes a file that ends in {ending}")
    other = path.with_suffix({"openvino": ".param", "ncnn": ".xml"}.get(kind, ".none"))
    if other.is_file():
        raise UserError(f"{path}: its weights would be {other.stem}.bin, which belongs to {other}; choose another name")
    return kind
