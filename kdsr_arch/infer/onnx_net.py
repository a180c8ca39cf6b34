"""ONNX files as networks that the runner can call: ONNX Runtime behind ``nn.Module``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.infer.foreign_onnx import Form, examine
from kdsr_arch.infer.traits import Traits


def open_session(model: bytes | Path, name: str, device: torch.device | str = "cpu") -> Any:
    """Open an ``onnxruntime.InferenceSession`` with as many threads as torch.

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
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # its errors have no common base
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: no usable ONNX network ({reason})") from None


class OnnxNet(nn.Module):
    """Runs an exported network on ONNX Runtime.

    Args:
        path: the .onnx file; its metadata tell scale, color, mode and window. One of images without them is tried out.
        device: a CUDA device asks for ONNX Runtime's CUDA provider, where it has one.

    Raises:
        UserError: ONNX Runtime is missing, the file is no ONNX network, or neither says nor shows what it wants.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__()
        self.session = open_session(path, str(path), device)
        metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        form = Form(_traits(path, metadata)) if "mode" in metadata else examine(path, self.session)
        self.traits, self._white, self._sides = form.traits, form.white, form.sides
        entry = self.session.get_inputs()[0]
        self._alone = entry.shape[0] == 1  # exported for one image at a time
        self._input, self._type = entry.name, np.float16 if "float16" in entry.type else np.float32
        fixed = entry.shape[1] if self.traits.mode == "recurrent" and len(entry.shape) == 5 else None
        self._length = fixed if isinstance(fixed, int) else 0
        if "mode" in metadata:  # by `kdsr export --size`
            high, wide = (side if isinstance(side, int) else 0 for side in entry.shape[-2:])
            self._sides = high, wide

    def forward(self, x: Tensor) -> Tensor:
        """Run the network as it was exported: on (B, C, h, w), (B, n, C, h, w) or (B, T, C, h, w).

        A recurrent network exported for clips of one length is given overlapping clips of that length, a network
        exported for one size overlapping pieces of that size.
        """
        return self._in_pieces(x) if any(self._sides) else self._whole(x)

    def _whole(self, x: Tensor) -> Tensor:
        if not self._length or x.shape[1] == self._length:
            return self._run(x)
        frames: dict[int, Tensor] = {}
        edge = self._length // 4  # frames at the ends of a clip, which its middle frames are better than
        last = x.shape[1] - self._length
        for start in [*range(0, last, max(self._length - 2 * edge, 1)), last]:
            out = self._run(x[:, start : start + self._length])
            frames |= {start + i: out[:, i] for i in range(self._length) if start + i not in frames or i >= edge}
        return torch.stack([frames[i] for i in range(x.shape[1])], 1)

    def _in_pieces(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tall, wide = self._sides[0] or height, self._sides[1] or width
        x = F.pad(x, (0, max(wide - width, 0), 0, max(tall - height, 0)), mode="replicate")
        scale = self.traits.scale
        out = x.new_empty(*x.shape[:-2], x.shape[-2] * scale, x.shape[-1] * scale)
        for top, above in _starts(x.shape[-2], tall):
            for left, beside in _starts(x.shape[-1], wide):
                part = self._whole(x[..., top : top + tall, left : left + wide])
                place = out[..., (top + above) * scale : (top + tall) * scale, :]
                place[..., (left + beside) * scale : (left + wide) * scale] = part[
                    ..., above * scale :, beside * scale :
                ]
        return out[..., : height * scale, : width * scale]

    def _run(self, x: Tensor) -> Tensor:
        if self._alone and len(x) > 1:
            return torch.cat([self._run(each) for each in x.split(1)])
        array = np.ascontiguousarray(x.detach().cpu().numpy() * self._white, dtype=self._type)
        out = self.session.run(None, {self._input: array})[0]
        return torch.from_numpy(out).to(x.device, torch.float32) / self._white


def _starts(length: int, side: int) -> list[tuple[int, int]]:
    """Where pieces of a side start, and what of each is left to the piece before: both see beyond where they meet."""
    edge, last = min(side // 8, 16), length - side
    return [(start, edge if start else 0) for start in (*range(0, last, max(side - 2 * edge, 1)), last)]


def _traits(path: Path, metadata: dict[str, str]) -> Traits:
    upsampled = metadata.get("upsampled_input", "false").lower() in ("true", "1")
    try:
        num_frame, multiple, min_size, min_clip = (
            int(metadata.get(name, 1)) for name in ("num_frame", "multiple", "min_size", "min_clip")
        )
        mode, scale, color = metadata["mode"], int(metadata["scale"]), metadata.get("color", "rgb")
        return Traits(mode, scale, num_frame, color, upsampled, multiple, min_size=min_size, min_clip=min_clip)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: its metadata do not tell what the network wants ({error}); write the file with kdsr export"
        ) from None
