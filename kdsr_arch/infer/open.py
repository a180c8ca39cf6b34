"""Files of weights, and the networks that they belong to, ready to run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.io import METADATA_KEY, SAFETENSORS, file_digest, load_tensors, locate, read_safetensors
from kdsr_arch.log import get_logger
from kdsr_arch.options.documents import read_parts
from kdsr_arch.options.load import bring_in_of, tell_import
from kdsr_arch.options.schema import PathOptions
from kdsr_arch.options.yaml_reader import load_yaml, parse_value
from kdsr_arch.registry import build, names

# what training code puts around weights, and before their names
_WRAPPERS = ("params_ema", "params-ema", "params", "model_state_dict", "state_dict", "model", "net", "generator")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and averages, and of torch.compile
_DOWNLOADS = Path("experiments") / "pretrained_models"


# ------------------------------------------------------------------------------------------------ files of weights


def read_weights(path: str | Path, param_key: str | None = None) -> dict[str, Tensor]:
    """Read the weights in a checkpoint by parameter name, without the wrappers and prefixes that training code adds.

    Args:
        path: .pth in BasicSR's or another's form, .safetensors, or .npz of arrays; 'package:NAME/...' is a file inside
            an installed package.
        param_key: 'params', 'params_ema' (where only the other of the two is there it is taken), another key, or the
            name of a part of the network ('decoder': entries 'decoder.*', without that prefix);
            None: whatever weights there are, the averaged ones first.

    Raises:
        UserError: missing, truncated, not a checkpoint, or without such weights; or a network cannot compute with them.
    """
    place = locate(path)
    weights = _chosen(place, load_tensors(place), param_key)
    for name, value in weights.items():
        forms = {"empty (meta)": value.is_meta, "quantized": value.is_quantized}
        forms[str(value.layout).removeprefix("torch.")] = value.layout != torch.strided
        if form := next((form for form, there in forms.items() if there), None):
            raise UserError(f"{place}: '{name}' is {form}; save the weights as plain floating-point tensors")
    return weights


def _chosen(place: Path, content: Any, param_key: str | None) -> dict[str, Tensor]:
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
    weights = _unwrapped(content)
    if param_key is not None and isinstance(content, Mapping):
        prefix = f"{param_key}."  # of a part of the network: a student starts as the decoder of its teacher
        part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        if chosen := _unwrapped(content.get(param_key)) or part:
            return chosen
        if param_key not in ("params", "params_ema"):  # these two stand in for each other, and for a bare file
            raise UserError(f"{place}: no weights under '{param_key}'; its keys: {keys}")
    if not weights:
        raise UserError(f"{place}: holds no network weights (it holds {keys})")
    return weights


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """The tensors by name inside any wrappers."""
    while isinstance(content, Mapping):
        inner = [content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)]
        if not inner and len(content) == 1:
            inner = [value for value in content.values() if isinstance(value, Mapping)]
        if not inner:
            return _bare({str(name): value for name, value in content.items() if isinstance(value, Tensor)})
        content = inner[0]
    return {}


def _bare(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off prefixes that all names have, but for those of single values, such as an average's count, which go."""
    for prefix in _PREFIXES:
        inner = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if inner and all(name.startswith(prefix) or value.dim() == 0 for name, value in weights.items()):
            return _bare(inner)
    return weights


def _part_of(net: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The entries under one prefix where those alone are the network's (Lightning's ``net_g.``); else all of them."""
    own = next(iter(net.state_dict()), None)
    prefixes = [name[: -len(own)] for name in weights if own and name.endswith(f".{own}")]
    parts = ({k.removeprefix(p): v for k, v in weights.items() if k.startswith(p)} for p in prefixes)
    return next((part for part in parts if not misfits(net, part)), weights)


def misfits(net: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Say in which ways weights are not a network's: entries that it lacks, that it has not, of another shape.

    Single values that it has not, such as the number of a step, do not count.
    """
    own, weights = ({k: v for k, v in d.items() if _is_weight(k, v)} for d in (net.state_dict(), weights))
    missing = [k for k in own if k not in weights]
    foreign = [k for k in weights if k not in own and weights[k].dim()]
    reshaped = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    shapes = [f"{k} {tuple(weights[k].shape)} instead of {tuple(own[k].shape)}" for k in reshaped]
    faults = [f"misses {_some(missing)}"] if missing else []
    faults += [f"has {_some(foreign)}, which the network has not"] if foreign else []
    return faults + ([f"has other shapes: {_some(shapes)}"] if shapes else [])


def _is_weight(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) and not name.endswith("_extra_state")  # whose shape may change


def refuse_values(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise UserError for weights that no network has: not floating-point numbers where it has such, or not finite.

    A mask that holds infinities in the network as it is built may hold them in the file.
    """
    for name, value in weights.items():
        if not own[name].is_floating_point():
            continue
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"'{name}' holds {kind}, no floating-point numbers; take another file of the weights")
        if not (value.float().isfinite().cpu() | ~own[name].isfinite().cpu()).all():
            raise UserError(f"'{name}' holds NaN or infinite values; take another file of the weights")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def load_weights(
    net: nn.Module,
    path: str | Path,
    param_key: str | None = None,
    strict: bool = True,
    option: str = "strict_load",
) -> float:
    """Fill `net` from a checkpoint file.

    Args:
        strict: every parameter must be there with its shape, and no other; otherwise the layers that fit are taken,
            and a warning says which were not: a network of another scale gives all but its last layer.
        option: the user's, that says so; empty where there is none.

    Returns:
        The part of the network that was filled, 1 for all: of its entries or of their values, whichever is less.

    Raises:
        UserError: the file is unusable (see `read_weights`), does not fit, or holds values that no network has; the
            keys are named.
    """
    weights, own = _part_of(net, read_weights(path, param_key)), net.state_dict()
    if hasattr(net, "adopted"):  # weights of another form of this network
        weights = net.adopted(weights)  # type: ignore[operator]
    # of a layer that trains as several branches some may fit, but those are worth nothing without the others
    reshaped = {_layer(k) for k, v in weights.items() if k in own and v.shape != own[k].shape}
    fitting = {k: v for k, v in weights.items() if k in own and _layer(k) not in reshaped}
    faults = misfits(net, weights)
    if faults and (strict or not fitting):
        advice = f", or set {option} to false to take what fits" if option else ""
        misfit = f"does not fit network {type(net).__name__}: {'; '.join(faults)}"
        raise UserError(f"{path}: {misfit}. Check the network's options{advice}")
    try:
        refuse_values(own, fitting)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    net.load_state_dict(fitting, strict=False)
    if faults:
        taken = f"{len(fitting)} of the {len(own)} entries of network {type(net).__name__} are taken from {path}"
        left = [name for name in own if name not in fitting]
        unused = [name for name in weights if name not in fitting]
        texts = [f"not {_some(left)}"] * bool(left) + [f"unused in the file: {_some(unused)}"] * bool(unused)
        get_logger().warning("; ".join([taken, *texts]))
    values = [sum(value.numel() for value in entries.values()) for entries in (fitting, own)]
    return min(len(fitting) / max(len(own), 1), values[0] / max(values[1], 1))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def load_pretrained(net: nn.Module, path: PathOptions, label: str) -> bool:
    """Fill `net` as `path.pretrain_network_LABEL` and its companions say.

    Args:
        path: the section `path` of the options.
        label: 'g', 't', 't2', ...; those with t are teachers.

    Returns:
        Whether the options name weights.

    Raises:
        UserError: see `load_weights`; or less than half of a teacher is filled.
    """
    weights = path.weights(label)
    if weights is None:
        return False
    try:
        filled = load_weights(net, *weights, option=f"path.strict_load_{label}")
        if label.startswith("t") and filled < 0.5:
            raise UserError(
                f"{weights.path}: fills {filled:.0%} of the teacher {type(net).__name__}, and the rest would teach at "
                "random; give the weights of this network"
            )
    except UserError as error:
        raise UserError(f"path.pretrain_network_{label}: {error}") from None
    if weights.param_key == "params" and f"param_key_{label}" not in path.model_fields_set:
        _tell_of_average(weights.path, label)
    return True


def _tell_of_average(path: str, label: str) -> None:
    """Tell of averaged weights that BasicSR's default leaves in their file: they are what validation measured."""
    content = load_tensors(locate(path))
    if isinstance(content, Mapping) and {"params", "params_ema"} <= set(content):
        get_logger().warning(
            f"path.pretrain_network_{label}: {path} holds averaged weights as well, which validation and kdsr upscale "
            f"take; here 'params' are taken. Say param_key_{label}: params_ema to have them, or params to keep these"
        )


# ---------------------------------------------------------------------------------- networks, from whatever names them


@dataclass(frozen=True)
class Opened:
    """A network ready to run.

    Attributes:
        net: in evaluation mode, without gradients.
        traits: how it is called.
        network: its type and keywords, as in an option file; empty for an ONNX file.
        weights: the file that it was filled from, if any.
        digest: SHA-256 of that file.
    """

    net: nn.Module
    traits: Traits
    network: dict[str, Any]
    weights: Path | None = None
    digest: str = ""

    @property
    def label(self) -> str:
        """Name for people: the file's, or the network's type."""
        return self.weights.stem if self.weights is not None else type(self.net).__name__


class Unrecognized(UserError):
    """Neither the user nor a file of weights says which network they are of."""


def open_network(
    weights: str | Path | None,
    network: str | None = None,
    *,
    option_file: str | Path | None = None,
    scale: int | None = None,
    param_key: str | None = None,
    device: torch.device | None = None,
    root: Path | None = None,
) -> Opened:
    """Build the network that a file of weights belongs to, and fill it.

    Args:
        weights: .pth in BasicSR's form, .safetensors, ours or another's, .onnx, or the name of shipped or downloaded
            weights; None for a network that brings its own or needs none.
        network: the network as YAML, such as ``{type: FSRCNN, scale: 4}``, or a file of it.
        option_file: its `network_g` and `scale`; what it imports is imported. Without this and `network`: what a
            .safetensors file says of itself, or the YAML file beside the weights, which imports nothing.
        scale: of networks that do not know it.
        param_key: 'params' or 'params_ema'; absent: the averaged ones where there are any.
        device: where it runs; the CPU by default.
        root: the project whose experiments/pretrained_models is searched first.

    Raises:
        Unrecognized: neither the arguments nor a file say which network it is.
        UserError: no such file, no weights, pickled code, or an unknown network.
    """
    if network is not None and os.path.isfile(network):
        network, option_file = None, network
    path = find_weights(str(weights), root) if weights is not None else None
    if path is not None and path.suffix.lower() == ".onnx":
        from kdsr_arch.infer.onnx_net import OnnxNet

        if network is not None or option_file is not None:
            raise UserError(f"{path}: tells by itself what network it is; leave the network out")
        onnx = OnnxNet(path, device or torch.device("cpu"))
        return opened(onnx, {}, path)
    if option_file is not None:
        bring_in_of(option_file)
    spec, known_scale, told_by = _spec(path, option_file, network)
    if told_by is not None and spec["type"] not in names("network"):
        tell_import(spec["type"], told_by)
    net = build("network", spec, "network")
    brings_own = bool(getattr(net, "pretrained", False))
    if path is not None and (path.suffix.lower() == SAFETENSORS or not brings_own):
        load_weights(net, path, param_key, option="")
    elif path is None and not brings_own and any(True for _ in net.parameters()):
        raise UserError(f"network {spec['type']} has parameters: give its weights with --weights FILE")
    return opened(net, spec, path, known_scale if scale is None else scale, device)


def opened(
    net: nn.Module,
    network: dict[str, Any],
    path: Path | None,
    scale: int | None = None,
    device: torch.device | None = None,
) -> Opened:
    """Make a filled network ready to run.

    Raises:
        UserError: it works at another scale, or no scale is known.
    """
    digest = file_digest(path) if path is not None else ""
    net = net.eval().requires_grad_(False).float().to(device or torch.device("cpu"))
    return Opened(net, traits_of(net, scale), network, path, digest)


def find_weights(name: str, root: Path | None = None) -> Path:
    """Find a file as named, the user's download of that name, or the weights shipped under it.

    Args:
        name: a path, 'package:NAME/...', or the name of a file without its ending.
        root: the project whose experiments/pretrained_models is searched first; then that of the current folder.

    Raises:
        UserError: there is none; the message gives the known names.
    """
    if os.path.isfile(os.path.expanduser(name)) or name.startswith("package:"):
        return locate(name)
    folders = [base / _DOWNLOADS for base in (root, Path.cwd()) if base is not None]
    folders.append(Path(__file__).resolve().parents[1] / "weights")
    known = {
        file.stem: file
        for folder in reversed(folders)
        for pattern in ("*.onnx", "*.safetensors", "*.pth")
        for file in sorted(folder.glob(pattern))
    }
    if name in known:
        return known[name]
    raise UserError(
        f"{name}: no such file of weights, and none of that name{nearest(name, known)}; known names: "
        f"{', '.join(sorted(known))}"
    )


def _spec(
    path: Path | None, option_file: str | Path | None, network: str | None
) -> tuple[dict[str, Any], int | None, Path | None]:
    """The network's options, the experiment's scale where an option file tells it, and that file if nobody named it."""
    if network is not None:
        return parsed_network(network), None, None
    if option_file is not None:
        return *_from_option_file(Path(option_file), path), None
    assert path is not None
    if path.suffix.lower() == SAFETENSORS:
        facts = read_metadata(read_safetensors(path)[1], path)
        if facts is not None:
            return dict(facts["network"]), int(facts["scale"]), None
    folder, same_name = path.resolve().parent, path.with_suffix(".yml")
    files = sorted((folder.parent if folder.name == "models" else folder).glob("*.yml"))  # NAME/models/net_g_N.pth
    if not same_name.is_file() and len(files) != 1:
        raise Unrecognized(
            f"{path}: which network is it? Tell with --network: its option file, or the network itself, such as "
            "'{type: FSRCNN, scale: 4}'"
        )
    beside = same_name if same_name.is_file() else files[0]
    return *_from_option_file(beside, path), beside


def parsed_network(text: str, flag: str = "--network") -> dict[str, Any]:
    """Read a network from a text such as ``{type: FSRCNN, scale: 4}``, with its braces or without.

    Args:
        text: the network.
        flag: of the command line, which gave it.

    Raises:
        UserError: it is no YAML, or names none.
    """
    stripped = text.strip()
    try:
        spec = parse_value(stripped if stripped.startswith("{") or "\n" in stripped else f"{{{stripped}}}")
    except UserError:
        spec = None
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise UserError(
            f"{flag} '{text[:200]}': neither a file nor a network in YAML, such as '{{type: FSRCNN, scale: 4}}'"
        )
    return spec


def _from_option_file(path: Path, weights: Path | None) -> tuple[dict[str, Any], int | None]:
    options = load_yaml(path)
    if "sequence" in options:
        options = _part_of_sequence(path, weights)
    spec = options.get("network_g", options.get("network", options))
    if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
        raise UserError(f"{path}: has neither network_g nor network with a type")
    scale = options.get("scale") if spec is not options else None
    return dict(spec), scale if isinstance(scale, int) else None


def _part_of_sequence(path: Path, weights: Path | None) -> dict[str, Any]:
    """Return the options of the part that trained `weights`, by the folder where its training puts them."""
    parts = {str(part.values["name"]).rpartition("/")[2]: part.values for part in read_parts(path)}
    folders = [file.resolve().parent for file in (weights, path) if file is not None]
    for folder in folders:
        name = (folder.parent if folder.name == "models" else folder).name
        if name in parts:
            return parts[name]
    raise UserError(
        f"{path}: is a sequence of {', '.join(parts)}, and the folder of the weights is named like none of them; give "
        "the network itself (--network '{type: FSRCNN, scale: 4}')"
    )


def read_metadata(metadata: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """Read what an exported file says of itself; None where it says nothing.

    Raises:
        UserError: it names no network or no scale.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        facts = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError):
        facts = None
    network, scale = (facts.get("network"), facts.get("scale")) if isinstance(facts, dict) else (None, None)
    if not isinstance(network, dict) or not isinstance(network.get("type"), str) or not isinstance(scale, int):
        raise UserError(f"{path}: its metadata cannot be read; export it again")
    return facts
