"""Every block of docs/python.md runs, in order, as in a notebook."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)
OTHERS = ("lightning", "accelerate")


def _needs(block: str) -> str | None:
    return next((name for name in OTHERS if re.search(rf"^import {name}$", block, re.M)), None)


def _run(blocks: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(folder)
    script = folder / "page.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    return runpy.run_path(str(script))


def test_the_own_loop_is_the_first_example_and_eight_lines() -> None:
    lines = [line for line in BLOCKS[1].splitlines() if line.strip() and not line.startswith("import")]
    assert "make_task" in lines[0] and len(lines) == 8


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _run([block for block in BLOCKS if not _needs(block)], tmp_path, monkeypatch)
    assert seen["big"].shape == (96, 128, 3)  # type: ignore[attr-defined]
    assert (tmp_path / "experiments" / "first" / "models" / "net_g_latest.pth").is_file()


@pytest.mark.parametrize("name", OTHERS)
def test_the_loops_of_others_train_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.util.find_spec(name):
        pytest.skip(f"needs the package {name}, which this project does not depend on")
    block = next(block for block in BLOCKS if _needs(block) == name)
    again = "taught, student = student, start\nterms = {'features': {'type': 'FAKDLoss', 'at': 'body'}}"
    copied = "import copy\nstart = copy.deepcopy(student)"
    seen = _run([BLOCKS[0], copied, BLOCKS[1], again, block], tmp_path, monkeypatch)
    own, others = seen["taught"].state_dict(), seen["student"].state_dict()  # type: ignore[attr-defined]
    for key, value in own.items():
        torch.testing.assert_close(others[key], value)


def test_the_table_names_all_that_is_public() -> None:
    import kdsr

    table = BLOCKS and (ROOT / "docs" / "python.md").read_text(encoding="utf-8").split("## All names")[1]
    public = set(kdsr.__all__) - {"__version__"}
    assert {name for name in public if f"`{name}" in str(table)} == public
    assert all(getattr(kdsr, name) is not None for name in public) and set(dir(kdsr)) == set(kdsr.__all__)


def test_importing_is_light() -> None:
    heavy = "torch", "torchvision", "cv2", "basicsr", "numpy", "pydantic", "scipy"
    code = f"import sys, kdsr; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
