"""A page upscales in the browser as the student does in PyTorch."""

import base64
import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.cli import main
from kdsr_arch.errors import UserError
from kdsr_arch.export.chromium import chromium
from kdsr_arch.export.form import prepare
from kdsr_arch.export.web import MOST_HALO, SHARED, find_runtime, page_runner, reach, web_page
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.io import save_tensors
from kdsr_arch.ops.bicubic import imresize
from kdsr_arch.options.yaml_reader import parse_value
from kdsr_arch.registry import build
from tests.helpers import ROOT
from tests.helpers.images import texture
from tests.helpers.messages import refuses

RGB = "{type: PlainSR, scale: 2, num_feat: 6, num_block: 1, act: prelu, residual: bicubic}"
LUMA = "{type: FSRCNN, scale: 2, d: 6, s: 5, m: 1, prelu: channel}"


def student(text):
    torch.manual_seed(0)
    net = build("network", parse_value(text), "network_g").eval().requires_grad_(False)
    return prepare(Opened(net, traits_of(net), parse_value(text)))


@pytest.fixture
def browser():
    """Skips where pages cannot be tried."""
    pytest.importorskip("onnxscript")
    try:
        find_runtime(ROOT / "x")
    except UserError as error:
        pytest.skip(str(error))
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))):
        pytest.skip("no Chromium here: apt-get install chromium")


def test_a_network_looks_as_far_as_its_kernels():
    assert reach(student(RGB)) == 3  # three 3x3 convolutions, and bicubic's 2
    assert reach(student(LUMA)) == 2 + 1 + 2  # 5x5, 3x3, and 9x9 with stride 2
    assert reach(student("{type: IMDN, num_feat: 8}")) == MOST_HALO  # attention over the whole image


@pytest.mark.slow
def test_the_page_restores_images_larger_and_smaller_than_its_tiles(browser):
    prepared = student(RGB)
    page = web_page(prepared, ROOT / "x", (24, 32))
    assert not re.search(r"(src|href)=.?https?:", page)
    with page_runner(page, 2) as run:
        for height, width in ((24, 32), (61, 45), (24, 90)):
            lq = prepared.example(height, width, seed=height)
            assert (run(lq) - prepared.reference(lq)).abs().max() < 1e-4
        small = prepared.example(10, 40, seed=1)
        assert (run(small) - prepared.reference(small))[..., :12, :].abs().max() < 1e-4  # away from the tile's end
        image = texture(16, 24, np.random.default_rng(0))
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        text = base64.b64encode(planes.numpy().tobytes()).decode()
        got = run.page.evaluate(f"Array.from(bicubic(new Float32Array(bytesOf('{text}').buffer), 3, 24, 16))")
        torch.testing.assert_close(torch.tensor(got).view(1, 3, 32, 48), imresize(planes, 2), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("text", [RGB, LUMA])
def test_a_dropped_image_is_shown_beside_bicubic(text, browser, tmp_path):
    save_tensors({"params": student(text).student.net.state_dict()}, tmp_path / "net.pth")
    (tmp_path / "node_modules").symlink_to(find_runtime(ROOT / "x").parents[1])
    out, image = tmp_path / "page.html", tmp_path / "in.png"
    cv2.imwrite(str(image), texture(32, 40, np.random.default_rng(1)))
    command = [
        "export",
        str(tmp_path / "net.pth"),
        "-o",
        str(out),
        "--network",
        text,
        "--target",
        "web",
        "--size",
        "32x24",
    ]
    assert main(command) == 0
    shown = """(async () => {
        const there = () => document.getElementById('state').textContent.includes(' in ');
        while (!there()) await new Promise((done) => setTimeout(done, 50));
        const pixels = (id) => { const c = document.getElementById(id);
            return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); };
        return {before: pixels('before'), after: pixels('after'), text: document.getElementById('state').textContent};
    })()"""
    with chromium("test") as page:
        page.open(out)
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        field = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        page.call("DOM.setFileInputFiles", files=[str(image)], nodeId=field)
        result = page.evaluate(shown)
    assert result["text"].startswith("40x32 to 80x64")
    rgb = torch.from_numpy(cv2.imread(str(image))[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    soft = imresize(rgb, 2)
    before, after = (
        torch.tensor(result[id]).view(64, 80, 4)[..., :3].permute(2, 0, 1) / 255 for id in ("before", "after")
    )
    assert (before - soft[0].clamp(0, 1)).abs().max() < 1.1 / 255
    if text == RGB:
        expected = student(text).reference(rgb)
    else:
        weights = torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
        luma = (rgb * weights).sum(1, keepdim=True) + 16 / 255
        gain = student(text).reference(luma) - ((soft * weights).sum(1, keepdim=True) + 16 / 255)
        expected = soft + gain * 255 / 219
    assert (after - expected[0].clamp(0, 1)).abs().max() < 1.1 / 255


def test_what_is_missing_or_does_not_fit_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODE_PATH", "")
    package = tmp_path / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    assert Path(sys.prefix, "node_modules") in SHARED  # where `make test` installs it
    with refuses("npm install onnxruntime-web"):
        monkeypatch.setattr("kdsr_arch.export.web.SHARED", ())
        find_runtime(tmp_path / "page.html")
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (package / "dist" / name).write_bytes(b"x")
    (package / "package.json").write_text(json.dumps({"version": "1.30.0"}))
    monkeypatch.setenv("PATH", "")
    with refuses("apt install chromium"), page_runner("", 2):
        pass
    with refuses("page", "frames", "window"):
        web_page(student("{type: VESPCN, scale: 2, num_feat: 4, num_block: 1}"), tmp_path / "page.html")
    with refuses("IMDN", "tiles", "whole image"):
        web_page(student("{type: IMDN, num_feat: 8}"), tmp_path / "page.html")
    with refuses("8x8", "--size", "10x10"):
        web_page(student(LUMA), tmp_path / "page.html", (8, 8))
    weights = tmp_path / "net.pth"
    save_tensors({"params": student(RGB).student.net.state_dict()}, weights)
    assert main(["export", str(weights), "-o", "a.html", "--network", RGB]) == 2
    assert "chromium" in capsys.readouterr().err and not (tmp_path / "a.html").exists()
