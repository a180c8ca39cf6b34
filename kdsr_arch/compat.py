"""Makes ``basicsr`` 1.4.2 importable and usable on today's torch, torchvision, numpy, OpenCV and SciPy.

Import this module before anything from ``basicsr``. It is the one place that touches ``sys.modules`` or patches
a third-party package; each patch says what it mends:

1. With a CPU-only torch, torchvision's compiled operators may not load, and its import then fails on operators
   that do not exist: their schemas are declared first.
2. ``torchvision.transforms.functional_tensor`` is gone since torchvision 0.17; basicsr still imports it.
3. ``torchvision.ops.deform_conv2d`` without compiled operators is replaced by :mod:`kdsr_arch.ops.deform_conv`, so
   that every deformable BasicSR network (EDVR, BasicVSR++, ...) runs everywhere.
4. basicsr compares versions through ``distutils``, which warns at every call of a deformable convolution and is no
   part of Python 3.12.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from pathlib import Path

import torch

__all__ = ["compiled_torchvision_ops"]

# torchvision registers fake implementations of these two at import; only the schema is needed, nothing ever runs.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # must outlive this function call, or its schemas are dropped


def _load_compiled_ops() -> bool:
    """True when torchvision's compiled operators are, or can be, loaded."""
    if hasattr(torch.ops.torchvision, "nms"):
        return _library is None
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed; install the version that matches your torch")
    for path in sorted(Path(spec.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(str(path))
        except (OSError, ImportError, RuntimeError):
            continue
        return hasattr(torch.ops.torchvision, "nms")
    return False


def _declare_schemas() -> None:
    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


def _alias_functional_tensor() -> None:
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    import torchvision.transforms.functional as functional

    sys.modules[name] = functional


def _provide_distutils() -> None:
    """basicsr needs ``distutils.version.LooseVersion`` only: the quiet and lasting one is ``packaging``'s."""
    from packaging.version import Version

    version = types.ModuleType("distutils.version")
    version.LooseVersion = Version  # type: ignore[attr-defined]
    saved = {name: sys.modules.get(name) for name in ("distutils", "distutils.version")}
    package = saved["distutils"] or types.ModuleType("distutils")
    sys.modules["distutils"], sys.modules["distutils.version"] = package, version
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escape sequences and deprecations of a 2022 release
            import basicsr.archs.arch_util  # noqa: F401
    finally:  # the rest of the program keeps the distutils it had
        for name, module in saved.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _replace_deform_conv() -> None:
    import torchvision

    from kdsr_arch.ops.deform_conv import deform_conv2d

    torchvision.ops.deform_conv2d = deform_conv2d


compiled_torchvision_ops: bool = _load_compiled_ops()
"""Whether torchvision's own compiled operators are in use."""
if not compiled_torchvision_ops:
    _declare_schemas()
    _replace_deform_conv()
_alias_functional_tensor()
_provide_distutils()
