"""Opening ONNX models in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdsr_arch.errors import UserError

__all__ = ["open_session"]


def open_session(model: bytes | Path, name: str, device: torch.device | str = "cpu") -> Any:
    """An ``onnxruntime.InferenceSession`` with as many threads as torch.

    Args:
        model: the model itself, or its file.
        name: what it is called in messages.
        device: a CUDA device asks for ONNX Runtime's CUDA provider, where it has one.

    Raises:
        UserError: ONNX Runtime is missing, or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f'{name}: running ONNX needs onnxruntime: pip install "kdsr[export]"') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
    providers = [p for p in wanted if p in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]
    held = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(held, options, providers=providers)
    except Exception as error:  # its errors have no common base
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: no usable ONNX network ({reason})") from None
