"""Which networks leave in which format: found out by trying."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from kdsr_arch.errors import UserError
from kdsr_arch.export.form import prepare
from kdsr_arch.export.formats import FORMATS
from kdsr_arch.export.source import open_student
from kdsr_arch.files import save_tensors
from kdsr_arch.infer.networks import build_network

NETWORKS = """
{type: FSRCNN, scale: 4}
{type: VDSR, scale: 4, num_in_ch: 1}
{type: CARN, scale: 4}
{type: IDN, scale: 4}
{type: IMDN, scale: 4}
{type: MSRResNet, num_feat: 16, num_block: 2, upscale: 4}
{type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 16, num_block: 2, upscale: 4}
{type: RCAN, num_in_ch: 3, num_out_ch: 3, num_feat: 16, num_group: 2, num_block: 2, upscale: 4}
{type: SRVGGNetCompact, num_feat: 16, num_conv: 4, upscale: 4}
{type: RRDBNet, num_in_ch: 3, num_out_ch: 3, scale: 4, num_feat: 16, num_block: 2, num_grow_ch: 8}
{type: SwinIR, upscale: 4, img_size: 64, window_size: 8, depths: [2], num_heads: [2], embed_dim: 16, upsampler: pixelshuffledirect}
{type: VESPCN, num_feat: 16, num_hr_feat: 16, num_block: 2, num_flow_feat: 8, base: bicubic}
{type: VESPCN, num_feat: 16, num_hr_feat: 16, num_block: 2, motion: false}
{type: EDVRSlim, num_feat: 16, num_hr_feat: 16, num_frame: 5, deformable_groups: 2, num_extract_block: 1, num_reconstruct_block: 1}
{type: BasicVSR, num_feat: 8, num_block: 1}
"""  # noqa: E501
_TRIED = ("onnx", "exported", "torchscript")


def rows(names: list[str] | None = None) -> Iterator[list[str]]:
    """One row a network: what it is, then for each format the largest difference from PyTorch, or 'no'.

    Args:
        names: types to try; all by default.
    """
    for line in NETWORKS.strip().splitlines():
        kind = yaml.safe_load(line)["type"]
        if names is None or kind in names:
            yield _row(line, kind)


def _row(network: str, kind: str) -> list[str]:
    label = kind + (", no motion" if "motion: false" in network else "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        save_tensors({"params": build_network(yaml.safe_load(network)).state_dict()}, folder / "net.pth")
        student = open_student(folder / "net.pth", network=network, scale=4)
        return [label, student.traits.mode, *(_try(kind, student, folder) for kind in _TRIED)]


def _try(kind: str, student: object, folder: Path) -> str:
    began = time.monotonic()
    try:
        found = FORMATS[kind](prepare(student), folder / f"net.{kind}")  # type: ignore[arg-type]
    except UserError as error:
        return f"no ({str(error).partition(': ')[2][:70]})"
    return f"{max(d.largest for d in found):.0e} ({time.monotonic() - began:.0f} s)"


def print_table(names: list[str] | None = None) -> None:
    """The table in Markdown, line by line as it is found out."""
    print("| network | mode | ONNX | ExportedProgram | TorchScript |\n| --- | --- | --- | --- | --- |", flush=True)
    for row in rows(names):
        print("| " + " | ".join(row) + " |", flush=True)
