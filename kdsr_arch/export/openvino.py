"""OpenVINO's form (.xml and .bin), made from the ONNX model and run in OpenVINO before it is written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared, metadata
from kdsr_arch.export.formats import Deviation, deviations, onnx_bytes
from kdsr_arch.io import METADATA_KEY, write_bytes

LIMITS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 4e-2}


def to_openvino(prepared: Prepared, path: Path) -> list[Deviation]:
    """Write the model, batch and sides free, facts in its runtime information under 'kdsr'; compare on the CPU.

    Raises:
        UserError: OpenVINO is missing, refuses the network, or computes something else.
    """
    core = _core()
    try:
        model = core.read_model(onnx_bytes(prepared))
    except RuntimeError as error:
        raise UserError(f"openvino cannot have this network: {' '.join(str(error).split())[:200]}") from None
    for key, value in metadata(prepared).items():
        model.set_rt_info(value, [METADATA_KEY, "json" if key == METADATA_KEY else key])
    with tempfile.TemporaryDirectory() as folder:
        import openvino

        draft = Path(folder) / "net.xml"
        openvino.save_model(model, draft, compress_to_fp16=False)  # --fp16 is in the graph already
        differences = deviations(prepared, openvino_runner(draft), "openvino", LIMITS)
        write_bytes(path.with_suffix(".bin"), draft.with_suffix(".bin").read_bytes())
        write_bytes(path, draft.read_bytes())
    return differences


def openvino_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Run a model in OpenVINO on the CPU, with as many threads as torch, without rounding to bfloat16.

    Raises:
        UserError: OpenVINO is missing.
    """
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = _core().compile_model(path, "CPU", options)
    return lambda lq: torch.from_numpy(compiled([lq.numpy()])[0].copy())


def _core() -> Any:
    try:
        import openvino
    except ImportError:
        raise UserError('openvino is missing: pip install "kdsr[openvino]"') from None
    return openvino.Core()
