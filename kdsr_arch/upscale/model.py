"""Which network upscales: from a weights file and what lies beside it, a shipped name, an option text, an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.export.source import open_student
from kdsr_arch.infer.networks import build_network
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.options import load_yaml, parse_value

DEFAULT_WEIGHTS = "VESPCN_RT_x4_demo"
_SHIPPED = Path("experiments") / "pretrained_models"
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Model:
    """A network ready to upscale.

    Attributes:
        runner: calls it in the form it wants.
        device: where it runs.
        amp: 'no', 'bf16' or 'fp16'.
        label: what people call it.
        fingerprint: differs between networks and weights; a resumed video must be of one fingerprint.
    """

    runner: Runner
    device: torch.device
    amp: str
    label: str
    fingerprint: str

    @property
    def traits(self) -> Traits:
        return self.runner.traits


def open_model(
    weights: str | None,
    network: str | None = None,
    *,
    scale: int | None = None,
    device: torch.device | None = None,
    precision: str = "auto",
    root: Path | None = None,
) -> Model:
    """The network that the command line describes.

    Args:
        weights: a .pth, .safetensors or .onnx file, or the name of shipped weights; None: the shipped student, unless
            ``network`` is given and needs none.
        network: the network as a YAML text (``{type: VESPCN, num_feat: 32}``) or file; None: what lies beside the
            weights tells it.
        scale: what the user expects; refused where the network enlarges by something else.
        device: where to run; the CPU by default.
        precision: 'auto' (fp16 on CUDA), 'fp32', 'fp16' or 'bf16'.
        root: the project whose experiments/pretrained_models is searched first.

    Raises:
        UserError: no such weights, no way to tell their network, or another scale.
    """
    device = device or torch.device("cpu")
    path = None if weights is None and network is not None else find_weights(weights or DEFAULT_WEIGHTS, root)
    net, traits = _open(path, network, device)
    label = path.stem if path is not None else type(net).__name__
    _check(traits, scale, label)
    amp = _amp(precision, device, path is not None and path.suffix.lower() == ".onnx")
    return Model(
        Runner(net.eval().requires_grad_(False).to(device), traits),
        device,
        amp,
        label,
        _fingerprint(path, network, amp),
    )


def _open(path: Path | None, network: str | None, device: torch.device) -> tuple[nn.Module, Traits]:
    if path is not None and path.suffix.lower() == ".onnx":
        from kdsr_arch.upscale.onnx_net import OnnxNet

        net: nn.Module = OnnxNet(path, device)
        return net, traits_of(net)
    file = network if network is not None and Path(network).is_file() else None
    text = _flow(network) if network is not None and file is None else None
    if path is None:
        return _without_weights(file, text)
    student = open_student(path, option_file=file, network=text)
    return student.net, student.traits


def _without_weights(file: str | None, text: str | None) -> tuple[nn.Module, Traits]:
    """A network that brings its own weights, or needs none."""
    option: Any = load_yaml(file) if file is not None else parse_value(text or "")
    option = option.get("network", option.get("network_g", option)) if isinstance(option, Mapping) else None
    if not isinstance(option, Mapping) or not isinstance(option.get("type"), str):
        raise UserError(f"--network {file or text}: names no network, such as '{{type: FSRCNN, scale: 4}}'")
    net = build_network(option, "network")
    if any(True for _ in net.parameters()) and not getattr(net, "pretrained", False):
        raise UserError(f"network {option['type']} has parameters: give its weights with --weights FILE")
    return net, traits_of(net)


def _flow(text: str) -> str:
    """``type: VESPCN, num_feat: 32`` without its braces is understood as well.

    Raises:
        UserError: no YAML.
    """
    stripped = text.strip()
    whole = f"{{{stripped}}}" if not stripped.startswith("{") and "\n" not in stripped else stripped
    try:
        parse_value(whole)
    except UserError:
        raise UserError(
            f"--network {text}: neither a file nor a network in YAML, such as '{{type: FSRCNN, scale: 4}}'"
        ) from None
    return whole


def find_weights(name: str, root: Path | None = None) -> Path:
    """A file as given, or the weights shipped under that name."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    folders = list(
        dict.fromkeys((base / _SHIPPED).resolve() for base in (root or Path.cwd(), Path.cwd(), _PACKAGE_ROOT))
    )
    found = {
        file.stem: file
        for folder in reversed(folders)
        for pattern in ("*.onnx", "*.safetensors", "*.pth")
        for file in sorted(folder.glob(pattern))
    }
    if name in found:
        return found[name]
    known = f"known names: {', '.join(sorted(found))}" if found else f"no weights lie in {folders[-1]}"
    raise UserError(
        f"--weights {name}: no such file, and no shipped weights of that name{nearest(name, found)}; {known}"
    )


def _check(traits: Traits, scale: int | None, label: str) -> None:
    if scale is not None and scale != traits.scale:
        raise UserError(
            f"--scale {scale}: network {label} enlarges by {traits.scale}; leave --scale out or take "
            "weights for that scale"
        )
    if traits.input == "gt":
        raise UserError(f"network {label} is a teacher that is given the ground truth: it cannot upscale")


def _amp(precision: str, device: torch.device, is_onnx: bool) -> str:
    known: Sequence[str] = ("auto", "fp32", "fp16", "bf16")
    if precision not in known:
        raise UserError(f"--precision {precision}: expected one of {', '.join(known)}")
    if is_onnx or precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return "no"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 needs a CUDA device; on the CPU take fp32 or bf16")
    return "fp16" if precision == "auto" else precision


def _fingerprint(path: Path | None, network: str | None, amp: str) -> str:
    digest = hashlib.sha256(f"{network} {amp}".encode())
    if path is not None:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
