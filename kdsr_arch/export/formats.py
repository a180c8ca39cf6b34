"""Writes the formats: each is built in memory, compared with PyTorch, and then written whole or not at all."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.archs.int8_arch import Int8
from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared, metadata
from kdsr_arch.export.qdq import qdq_model
from kdsr_arch.infer.onnx_net import open_session
from kdsr_arch.infer.open import read_metadata
from kdsr_arch.infer.pixels import finite
from kdsr_arch.io import METADATA_KEY, read_safetensors, write_bytes
from kdsr_arch.ops.exporting import export_form

OPSET = 18
EXTRA_FILE = "kdsr.json"
SIZES = ((24, 40), (17, 29), (45, 36))  # above 16; larger by as much as the smallest size of the network is
LIMITS = {"fp32": 1e-5, "fp16": 2e-2, "int8": 4e-2}
_ADVICE = 'install what exporting needs: pip install "kdsr[export]"'


@dataclass(frozen=True)
class Deviation:
    """Largest absolute difference at one LR size, outputs being in [0, 1], and the PSNR that it amounts to."""

    size: tuple[int, int]
    largest: float
    psnr: float

    def __str__(self) -> str:
        return f"{self.size[1]}x{self.size[0]}: max difference {self.largest:.1e} ({self.psnr:.1f} dB)"


@torch.no_grad()
def deviations(
    prepared: Prepared,
    run: Callable[[Tensor], Tensor],
    what: str,
    limits: Mapping[str, float] = LIMITS,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[Deviation]:
    """Run both on several sizes, odd ones among them where the network takes any.

    Args:
        run: the exported network.
        what: its format, for messages.
        limits: largest difference by precision, 'fp32', 'fp16' and 'int8'.
        sizes: LR heights and widths.

    Raises:
        UserError: it fails at a size, or differs by more than the limits allow.
    """
    differences, more = [], max(prepared.student.traits.lr_minimum - 16, 0)
    for number, (height, width) in enumerate(sizes):
        lq = prepared.example(height + more, width + more, batch=1 + number % 2, seed=number)
        expected = finite(prepared.reference(lq), f"{prepared.student.label}")
        try:
            got = run(lq)
        except Exception as error:  # any runtime may fail in any way of its own
            reason = " ".join(str(error).split())[:200]
            size = f"{lq.shape[-1]}x{lq.shape[-2]}"
            raise UserError(f"{what}: the exported network does not run at {size}: {reason}") from None
        if got.shape != expected.shape:
            raise UserError(
                f"{what}: the exported network gives {tuple(got.shape)} instead of {tuple(expected.shape)}: "
                "it does not follow the input's size"
            )
        difference = (finite(got, f"{what}: the exported network") - expected).double()
        power = float(difference.square().mean())
        differences.append(
            Deviation(
                (lq.shape[-2], lq.shape[-1]),
                float(difference.abs().max()),
                10 * math.log10(1 / power) if power else math.inf,
            )
        )
    limit = limits[prepared.precision] * max(1.0, float(expected.abs().max()))
    worst = max(differences, key=lambda d: d.largest)
    if not worst.largest <= limit:
        raise UserError(
            f"{what}: differs from PyTorch by {worst.largest:.1e} at {worst.size[1]}x{worst.size[0]}, more than "
            f"{limit:.0e}; not written"
        )
    return differences


@contextmanager
def tracing(what: str) -> Iterator[None]:
    """Turn what tracing a network may throw into one sentence."""
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


def _traced(prepared: Prepared, size: tuple[int, int] | None = None) -> torch.export.ExportedProgram:
    """Trace one image of a size, or with batch, height and width free; multiples that sides must be of say so."""
    if size is not None:
        return torch.export.export(prepared.module, (prepared.example(*size),))
    example, unit = prepared.example(24, 32, batch=2), prepared.student.traits.lr_multiple
    sides = (example.dim() - 2, example.dim() - 1)
    free: dict[int, Any] = dict.fromkeys((0, *sides), torch.export.Dim.DYNAMIC)
    if unit > 1:
        free |= {axis: unit * torch.export.Dim(f"units{axis}", min=1, max=8192) for axis in sides}
    return torch.export.export(
        prepared.module, (example,), dynamic_shapes={"lq": free}, prefer_deferred_runtime_asserts_over_guards=True
    )


def onnx_bytes(prepared: Prepared, opset: int = OPSET, size: tuple[int, int] | None = None) -> bytes:
    """Make the ONNX model: input 'lq', output 'sr', metadata inside.

    Args:
        size: LR height and width of the one image that it takes; None: batch, height and width are free.

    Raises:
        UserError: the network cannot be exported.
    """
    with tracing("ONNX"):
        import onnx  # noqa: F401  (its absence is reported before the long work)
        import onnxscript  # noqa: F401

        if isinstance(prepared.student.net, Int8):
            model = qdq_model(prepared.student.net, opset, size)
        else:
            program = torch.onnx.export(
                _traced(prepared, size), dynamo=True, verbose=False, opset_version=opset, input_names=["lq"],
                output_names=["sr"],
            )  # fmt: skip
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


def to_onnx(prepared: Prepared, path: Path, opset: int = OPSET, size: tuple[int, int] | None = None) -> list[Deviation]:
    """Write the ONNX model, of one image of an LR size or of any, and return how far it is from PyTorch."""
    model = onnx_bytes(prepared, opset, size)
    try:
        differences = deviations(prepared, onnx_runner(model), "ONNX", sizes=(size,) if size else SIZES)
    except UserError as error:
        advice = "" if size else "; a file of one size may do: --size WxH"
        raise UserError(f"{error}{advice}") from None
    write_bytes(path, model)
    return differences


def to_exported_program(prepared: Prepared, path: Path) -> list[Deviation]:
    """Write torch.export's ExportedProgram, its metadata as the extra file ``kdsr.json``, and compare."""
    with tracing("ExportedProgram"):
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
    for key, value in tensors.items():
        if value.is_floating_point() and value.numel():
            finite(value, f"{path}: not written: '{key}'", "the weights are damaged, or beyond what --fp16 holds")
    write_bytes(path, save(tensors, metadata=metadata(prepared)))
    return []


FORMATS: dict[str, Callable[..., list[Deviation]]] = {
    "onnx": to_onnx,
    "exported": to_exported_program,
    "safetensors": to_safetensors,
}
ENDINGS = {".onnx": "onnx", ".pt2": "exported", ".safetensors": "safetensors"}


def format_of(path: Path, endings: Mapping[str, str] = ENDINGS) -> str:
    """Tell the format that a file's ending asks for; UserError for others."""
    if path.suffix.lower() not in endings:
        known = ", ".join(f"{ending} ({name})" for ending, name in endings.items())
        raise UserError(f"{path}: which format? Its name must end in one of {known}")
    return endings[path.suffix.lower()]


def read_facts(path: str | Path) -> dict[str, Any]:
    """Read what an exported file (ONNX, ExportedProgram, safetensors) says of itself.

    Raises:
        UserError: it is none, or says nothing.
    """
    path, facts = Path(path), dict[str, str]()
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
