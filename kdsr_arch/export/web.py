"""A page that upscales in the browser: network, ONNX Runtime Web and all else in one file, tried in Chromium."""

from __future__ import annotations

import base64
import gzip
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.export.chromium import Page, chromium
from kdsr_arch.export.form import SIZE, Prepared, metadata
from kdsr_arch.export.formats import OPSET, Deviation, deviations, onnx_bytes
from kdsr_arch.io import METADATA_KEY, write_bytes

LIMITS = {"fp32": 1e-4, "fp16": 2e-2, "int8": 4e-2}
MOST_HALO = 32
"""LR pixels; what looks further needs images in one piece."""
_PACKAGE, _SCRIPT, _WASM = "onnxruntime-web", "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHARED = tuple(Path(folder, "node_modules") for folder in (sys.prefix, "/usr/local/lib", "/usr/lib"))
"""Where `npm install --prefix VENV` puts packages, for the virtual environment that runs this, and `--global`."""
_FOLDER = Path(__file__).with_name("templates")


def to_web(prepared: Prepared, path: Path, size: tuple[int, int] = SIZE) -> list[Deviation]:
    """Write the page and return how far it is, in Chromium, from PyTorch.

    Args:
        size: LR height and width of the network in the page, which cuts larger images into such tiles.

    Raises:
        UserError: the network is none of single images or looks too far for such tiles, ONNX Runtime Web or Chromium
            is missing, or the page computes something else.
    """
    page = web_page(prepared, path, size)
    height, width = _tile(prepared, size)
    sizes = ((height, width), (height + 17, width + 29), (2 * height, width))
    with page_runner(page, prepared.student.traits.scale) as run:
        differences = deviations(prepared, run, "web", LIMITS, sizes)
    write_bytes(path, page.encode())
    return differences


def web_page(prepared: Prepared, path: Path, size: tuple[int, int] = SIZE) -> str:
    """Make the page, which holds the network of one size; ONNX Runtime Web is looked for beside ``path`` and above.

    Raises:
        UserError: see `to_web`.
    """
    traits = prepared.student.traits
    if traits.mode != "image":
        raise UserError(f"web: a page takes networks of one image; this one takes frames ({traits.mode})")
    tile, halo = _tile(prepared, size), reach(prepared)
    if halo == MOST_HALO:
        raise UserError(
            f"web: a page cuts images into tiles, and {type(prepared.student.net).__name__} looks {MOST_HALO} pixels "
            "far or further, perhaps at the whole image"
        )
    if min(tile) <= 2 * halo:
        raise UserError(
            f"web: tiles of {tile[1]}x{tile[0]} are too small for a network that looks {halo} pixels far; give a "
            f"--size above {2 * halo}x{2 * halo}"
        )
    runtime = find_runtime(path)
    model = onnx_bytes(prepared, OPSET, tile)
    facts = json.loads(metadata(prepared)[METADATA_KEY]) | {"size": tile, "halo": halo, "label": prepared.student.label}
    environment = Environment(loader=PackageLoader("kdsr_arch.export"), autoescape=True, undefined=StrictUndefined)
    environment.globals["asset"] = lambda name: Markup((_FOLDER / name).read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(
        title=f"{prepared.student.label} x{traits.scale}", facts=facts,
        network=_packed(model), runtime=_packed(_read(runtime / _SCRIPT)), wasm=_packed(_read(runtime / _WASM)),
        runtime_version=json.loads(_read(runtime.parent / "package.json"))["version"],
    )  # fmt: skip


def _tile(prepared: Prepared, size: tuple[int, int]) -> tuple[int, int]:
    height, width = prepared.example(*size).shape[-2:]
    return height, width


@torch.no_grad()
def reach(prepared: Prepared) -> int:
    """Measure how many LR pixels around a pixel change with it, `MOST_HALO` at most."""
    side = 2 * MOST_HALO + 1
    one = prepared.example(side, side)
    other, middle = one.clone(), one.shape[-1] // 2
    other[..., middle, middle] = 1 - other[..., middle, middle]
    scale = prepared.student.traits.scale
    moved = (prepared.module(one) - prepared.module(other)).abs().amax((0, 1))
    places = moved.nonzero() // scale - middle
    return min(int(places.abs().max()), MOST_HALO) if len(places) else 0


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): npm install {_PACKAGE}@1.30") from None


def find_runtime(path: Path) -> Path:
    """Find the files of ONNX Runtime Web as node does: in node_modules beside a file or above, here, and in NODE_PATH.

    Raises:
        UserError: it is nowhere.
    """
    here = [folder / "node_modules" for start in (path, Path.cwd() / "x") for folder in start.absolute().parents]
    asked = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    for folder in (*here, *asked, *SHARED):
        if (folder / _PACKAGE / "dist" / _WASM).is_file():
            return folder / _PACKAGE / "dist"
    raise UserError(f"web: {_PACKAGE} is missing: npm install {_PACKAGE} in {path.absolute().parent} or above")


class PageRunner:
    """Calls a page's network, image by image."""

    def __init__(self, page: Page, scale: int) -> None:
        self.page, self.scale = page, scale

    def __call__(self, lq: Tensor) -> Tensor:
        """Enlarge (N, C, h, w) in [0, 1]."""
        return torch.stack([self._restore(image) for image in lq])

    def _restore(self, image: Tensor) -> Tensor:
        channels, height, width = image.shape
        text = base64.b64encode(image.numpy().astype("<f4").tobytes()).decode()
        answer = self.page.evaluate(f"kdsr.restore('{text}', {width}, {height})")
        values = np.frombuffer(base64.b64decode(answer), "<f4").copy()
        return torch.from_numpy(values).view(channels, height * self.scale, width * self.scale)


@contextmanager
def page_runner(text: str, scale: int) -> Iterator[PageRunner]:
    """Open a page in Chromium.

    Raises:
        UserError: there is none.
    """
    with chromium("web: a page") as browser, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(text, encoding="utf-8")
        browser.open(file)
        yield PageRunner(browser, scale)
