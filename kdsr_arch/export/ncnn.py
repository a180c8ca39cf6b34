"""ncnn's form (.param and .bin), made by pnnx and run in ncnn before it is written."""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared, metadata, prepare
from kdsr_arch.export.formats import Deviation, deviations, tracing
from kdsr_arch.io import METADATA_KEY, write_bytes

LIMITS = {"fp32": 1e-4, "fp16": 1e-2}


def to_ncnn(prepared: Prepared, path: Path) -> list[Deviation]:
    """Write NAME.param and NAME.bin, sides free, blobs 'in0' and 'out0', facts in NAME.json; compare on the CPU.

    Raises:
        UserError: pnnx or ncnn is missing, the network is none of single images, has an operator that ncnn lacks, or
            ncnn computes something else.
    """
    _tool("ncnn")
    if prepared.student.traits.mode != "image":
        name = type(prepared.student.net).__name__
        raise UserError(f"ncnn takes networks of one image; {name} takes frames ({prepared.student.traits.mode})")
    with tempfile.TemporaryDirectory() as folder:
        param = _converted(prepared, Path(folder))
        differences = deviations(prepared, ncnn_runner(param), "ncnn", LIMITS)
        write_bytes(path.with_suffix(".json"), metadata(prepared)[METADATA_KEY].encode())
        write_bytes(path.with_suffix(".bin"), param.with_suffix(".bin").read_bytes())
        write_bytes(path, param.read_bytes())
    return differences


def _converted(prepared: Prepared, folder: Path) -> Path:
    """Let pnnx convert the network in a folder; return the .param file. Half precision is of the weights alone."""
    pnnx = _tool("pnnx")
    examples = [prepared.example(24, 32), prepared.example(40, 48)]  # two sizes: sides are free
    module = prepare(prepared.student, reparam=bool(prepared.changes)).module if prepared.half else prepared.module
    with tracing("ncnn"):
        torch.jit.trace(module, examples[0], check_trace=False).save(str(folder / "net.pt"))
    first, second = ("[" + ",".join(map(str, lq.shape)) + "]f32" for lq in examples)
    shapes = [f"inputshape={first}", f"inputshape2={second}"]
    done = subprocess.run(
        [pnnx.EXEC_PATH, "net.pt", *shapes, f"fp16={int(prepared.half)}"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    param = folder / "net.ncnn.param"
    if not param.is_file():
        thrown = " ".join(done.stderr.partition("what():")[2].split())  # then where from, frame by frame
        reason = thrown[:200] or " ".join(done.stderr.split())[-200:] or f"pnnx ended with {done.returncode}"
        raise UserError(f"ncnn: pnnx cannot convert this network: {reason}")
    layers = [line.split()[:2] for line in param.read_text().splitlines()[2:]]
    foreign = [f"{kind} ({name})" for kind, name in layers if "." in kind or "::" in kind]  # PyTorch's, left as it was
    if foreign:
        raise UserError(f"ncnn has no {', '.join(foreign[:3])}, which this network needs")
    return param


def ncnn_runner(param: Path) -> Callable[[Tensor], Tensor]:
    """Run a model in ncnn on the CPU, image by image, computing in float32.

    Raises:
        UserError: ncnn is missing or refuses the model.
    """
    ncnn = _tool("ncnn")
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise UserError("ncnn does not take the network as pnnx converts it")

    def run(lq: Tensor) -> Tensor:
        images = []
        for image in lq:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image.numpy())).clone())
            images.append(torch.from_numpy(np.array(extractor.extract("out0")[1])))
        return torch.stack(images)

    return run


def _tool(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'{name} is missing: pip install "kdsr[ncnn]"') from None
