"""Writes the formats: each is built in memory, compared with PyTorch, and then written whole or not at all."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared, metadata
from kdsr_arch.export.verify import Deviation, deviations
from kdsr_arch.infer.onnx_net import open_session
from kdsr_arch.infer.open import METADATA_KEY, read_metadata
from kdsr_arch.io import read_safetensors, write_bytes
from kdsr_arch.ops.exporting import export_form

OPSET = 18
EXTRA_FILE = "kdsr.json"
_ADVICE = 'install what exporting needs: pip install "kdsr[export]"'


@contextmanager
def _tracing(what: str) -> Iterator[None]:
    """What tracing a network may throw becomes one sentence."""
    try:
        quiet = io.StringIO()  # tracers print whole graphs beside what they then throw
        with export_form(), warnings.catch_warnings(), torch.no_grad(), redirect_stdout(quiet), redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            logging.disable(logging.ERROR)
            yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{what} needs {error.name}; {_ADVICE}") from None
    except Exception as error:  # tracers throw whatever they like; the network is what cannot be exported
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}, {' '.join(str(cause).split())[:300]}"
        raise UserError(f"{what}: this network cannot be exported: {reason}") from None
    finally:
        logging.disable(logging.NOTSET)


def _example(prepared: Prepared) -> Tensor:
    return prepared.example(24, 32, batch=2)


def _shapes(prepared: Prepared) -> dict[str, dict[int, Any]]:
    """Free axes; sides that must be multiples of something say so."""
    unit = prepared.student.traits.lr_multiple
    batch, *sides = prepared.dynamic_axes
    free: dict[int, Any] = dict.fromkeys((batch, *sides), torch.export.Dim.DYNAMIC)
    if unit > 1:
        free |= {axis: unit * torch.export.Dim(f"units{axis}", min=1, max=8192) for axis in sides}
    return {"lq": free}


def _traced(prepared: Prepared) -> torch.export.ExportedProgram:
    return torch.export.export(
        prepared.module,
        (_example(prepared),),
        dynamic_shapes=_shapes(prepared),
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def onnx_bytes(prepared: Prepared, opset: int = OPSET) -> bytes:
    """Make the ONNX model: batch, height and width free; input 'lq', output 'sr', metadata inside.

    Raises:
        UserError: the network cannot be exported.
    """
    with _tracing("ONNX"):
        import onnx  # noqa: F401  (its absence is reported before the long work)
        import onnxscript  # noqa: F401

        program = torch.onnx.export(
            _traced(prepared), dynamo=True, verbose=False, opset_version=opset, input_names=["lq"], output_names=["sr"]
        )
    assert program is not None
    model = program.model_proto
    for key, value in metadata(prepared, opset=opset).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


def onnx_runner(model: bytes) -> Callable[[Tensor], Tensor]:
    """Run the model in onnxruntime, on the CPU.

    Raises:
        UserError: onnxruntime is missing or refuses the model.
    """
    session = open_session(model, "ONNX")
    return lambda lq: torch.from_numpy(session.run(None, {"lq": lq.numpy()})[0])


def to_onnx(prepared: Prepared, path: Path, opset: int = OPSET) -> list[Deviation]:
    """Write the ONNX model and return how far it is from PyTorch."""
    model = onnx_bytes(prepared, opset)
    differences = deviations(prepared, onnx_runner(model), "ONNX")
    write_bytes(path, model)
    return differences


def to_exported_program(prepared: Prepared, path: Path) -> list[Deviation]:
    """Write torch.export's ExportedProgram, its metadata as the extra file ``kdsr.json``, and compare."""
    with _tracing("ExportedProgram"):
        program = _traced(prepared)
    differences = deviations(prepared, program.module(), "ExportedProgram")
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={EXTRA_FILE: metadata(prepared)[METADATA_KEY]})
    write_bytes(path, buffer.getvalue())
    return differences


def to_safetensors(prepared: Prepared, path: Path) -> list[Deviation]:
    """Write the weights as they were trained (float16 with ``half``), metadata in the header; nothing to compare."""
    try:
        from safetensors.torch import save
    except ImportError:
        raise UserError(f"safetensors is missing; {_ADVICE}") from None
    tensors = {key: value.contiguous().clone() for key, value in prepared.student.net.state_dict().items()}
    if prepared.half:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    write_bytes(path, save(tensors, metadata=metadata(prepared)))
    return []


FORMATS: dict[str, Callable[..., list[Deviation]]] = {
    "onnx": to_onnx,
    "exported": to_exported_program,
    "safetensors": to_safetensors,
}
ENDINGS = {".onnx": "onnx", ".pt2": "exported", ".safetensors": "safetensors"}


def format_of(path: Path) -> str:
    """Tell the format that a file's ending asks for; UserError for others."""
    if path.suffix.lower() not in ENDINGS:
        known = ", ".join(f"{ending} ({name})" for ending, name in ENDINGS.items())
        raise UserError(f"{path}: which format? Its name must end in one of {known}")
    return ENDINGS[path.suffix.lower()]


def read_facts(path: Path) -> dict[str, Any]:
    """Read what an exported file of any format says of itself.

    Raises:
        UserError: it is none, or says nothing.
    """
    facts: dict[str, str] = {}
    kind = format_of(path)
    try:
        if kind == "onnx":
            import onnx

            model = onnx.load(str(path), load_external_data=False)
            facts = {entry.key: entry.value for entry in model.metadata_props}
        elif kind == "safetensors":
            facts = read_safetensors(path)[1]
        else:
            extra = {EXTRA_FILE: ""}
            torch.export.load(str(path), extra_files=extra)
            facts = {METADATA_KEY: extra[EXTRA_FILE]}
    except UserError:
        raise
    except Exception as error:  # each reader fails in ways of its own
        raise UserError(f"{path}: truncated, damaged or no {kind} file: {' '.join(str(error).split())[:150]}") from None
    if not facts.get(METADATA_KEY):
        raise UserError(f"{path}: says nothing of its scale and color; it was not exported by kdsr")
    return read_metadata(facts, path) or {}
