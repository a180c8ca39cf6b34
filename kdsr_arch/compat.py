"""Makes ``torchvision`` and ``basicsr`` 1.4.2 importable and usable on today's torch, numpy, OpenCV and SciPy.

``import kdsr_arch`` calls `install`, which puts a finder before Python's own. The finder waits for the first import of
one of the two packages, from anywhere and in any order, and applies these patches around it:

1. With a CPU-only torch, torchvision's compiled operators may not load, and its import then fails on operators
   that do not exist: their schemas are declared first.
2. ``torchvision.transforms.functional_tensor`` is gone since torchvision 0.17; basicsr still imports it.
3. ``torchvision.ops.deform_conv2d`` is replaced by :mod:`kdsr_arch.ops.deform_conv` on the CPU, and everywhere without
   compiled operators, so that every deformable BasicSR network (EDVR, BasicVSR++, ...) runs everywhere. The compiled
   one is several times slower on the CPU, and ends the process where an offset is NaN.
4. ``DCNv2Pack`` of basicsr looks at its offsets at every forward, for which a GPU is waited for, and floods the log
   where they are large: :mod:`kdsr_arch.ops.offset_monitor` watches them instead.
5. basicsr compares versions through ``distutils``, which warns at every call of a deformable convolution and is no
   part of Python 3.12.
6. ``basicsr.utils.matlab_functions`` had the conversions between RGB and YCbCr before they moved to ``color_util``;
   projects written for that time (HAT) import them from there.

This is the one module that touches ``sys.modules`` or patches a third-party package. It imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing it takes longer than all else here
    from importlib.abc import Loader

# torchvision registers fake implementations of these two at import; only the schema is needed, nothing ever runs.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # the library that declares the schemas, which must outlive the import


def install() -> None:
    """Put the finder in place, once; patch torchvision at once where it is imported already."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    if "torchvision" in sys.modules:
        _adapt_torchvision()


class _Finder:
    """Finds the packages to patch as Python would, and has their loaders wrapped."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a package to patch; None leaves any other module to the finders behind this one."""
        if name not in _AROUND:
            return None
        for finder in sys.meta_path:
            spec = None if isinstance(finder, _Finder) else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:  # none: a folder without __init__.py
                    spec.loader = _Patching(spec.loader, _AROUND[name])  # type: ignore[assignment]  # importlib asks for its methods alone
                return spec
        return None


class _Patching:
    """Executes a package inside a context manager, and leaves it with its own loader."""

    def __init__(self, loader: Loader, around: Callable[[], AbstractContextManager[None]]) -> None:
        self._loader, self._around = loader, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        """Create the module as the package's own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Execute the package with its patches applied."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        with self._around():
            self._loader.exec_module(module)


@contextlib.contextmanager
def _around_torchvision() -> Iterator[None]:
    if not _load_compiled_ops():
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
    yield
    _adapt_torchvision()


@contextlib.contextmanager
def _around_basicsr() -> Iterator[None]:
    """Provide the ``distutils.version.LooseVersion`` that basicsr asks for: the lasting one is ``packaging``'s."""
    import torchvision  # noqa: F401  (basicsr imports it while distutils is replaced, which is for basicsr alone)
    from packaging.version import Version

    version = types.ModuleType("distutils.version")
    version.LooseVersion = Version  # type: ignore[attr-defined]
    saved = {name: sys.modules.get(name) for name in ("distutils", "distutils.version")}
    sys.modules["distutils"] = saved["distutils"] or types.ModuleType("distutils")
    sys.modules["distutils.version"] = version
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escape sequences and deprecations of a 2022 release
            yield
            _let_alignments_run()
            _keep_older_names()
    finally:  # the rest of the program keeps the distutils it had
        for name, module in saved.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _let_alignments_run() -> None:
    import torch
    import torchvision
    from basicsr.archs.arch_util import DCNv2Pack

    def forward(self: Any, x: Any, feat: Any) -> Any:
        *offsets, mask = self.conv_offset(feat).chunk(3, dim=1)
        sides = self.stride, self.padding, self.dilation
        return torchvision.ops.deform_conv2d(x, torch.cat(offsets, 1), self.weight, self.bias, *sides, mask.sigmoid())

    DCNv2Pack.forward = forward


def _keep_older_names() -> None:
    from basicsr.utils import color_util, matlab_functions

    for name in ("rgb2ycbcr", "bgr2ycbcr", "ycbcr2rgb", "ycbcr2bgr"):
        setattr(matlab_functions, name, getattr(color_util, name))


_AROUND: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "torchvision": _around_torchvision,
    "basicsr": _around_basicsr,
}


def _load_compiled_ops() -> bool:
    """Load torchvision's compiled operators; return whether they are there."""
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return not _declared
    spec = importlib.util.find_spec("torchvision")
    for path in sorted(Path(spec.origin).parent.glob("_C*")) if spec is not None and spec.origin is not None else ():
        try:
            torch.ops.load_library(str(path))
        except (OSError, ImportError, RuntimeError):
            continue
        return hasattr(torch.ops.torchvision, "nms")
    return False


def _adapt_torchvision() -> None:
    _alias_functional_tensor()
    import torchvision

    from kdsr_arch.ops.deform_conv import deform_conv2d

    def chosen(input: Any, *args: Any, **keywords: Any) -> Any:
        return (deform_conv2d if _declared or not input.is_cuda else compiled)(input, *args, **keywords)

    compiled = torchvision.ops.deform_conv2d
    torchvision.ops.deform_conv2d = chosen


def _alias_functional_tensor() -> None:
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    import torchvision.transforms.functional as functional

    sys.modules[name] = functional
