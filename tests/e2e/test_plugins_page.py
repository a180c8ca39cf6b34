"""Every block of docs/plugins.md does what the page says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdsr_arch import cli, registry
from tests.helpers import ROOT
from tests.helpers.images import write_textures
from tests.helpers.plugins import forgotten, write_files

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, each named by its first line."""
    files = [text.removeprefix("# ").split("\n", 1) for kind, text in BLOCKS if kind in ("yaml", "python", "toml")]
    write_files(tmp_path, dict(files))
    monkeypatch.chdir(tmp_path)
    with forgotten():
        yield tmp_path


def test_every_block_is_run_here() -> None:
    assert {kind for kind, _ in BLOCKS} == {"yaml", "python", "toml", "bash"}


def test_its_commands_run_on_its_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_textures(project, 1, 32, 32)
    (project / "0.png").rename(project / "photo.png")
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()]
    assert len(lines) == 5
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "kdsr" and cli.main(words) == 0, f"{line}: {capsys.readouterr().err}"
    assert (project / "big.png").is_file() and (project / "tiny.safetensors").is_file()
    kept = {file.name for file in (project / "experiments" / "mine" / "imports").rglob("*.py")}
    assert kept == {"tiny.py", "edge.py", "noise.py"}


def test_its_package_is_a_plug_in(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    ((group, points),) = about["entry-points"].items()
    lines = "\n".join(f"{name} = {module}" for name, module in points.items())
    meta = f"Name: {about['name']}\nVersion: {about['version']}\n"
    info = {"METADATA": meta, "entry_points.txt": f"[{group}]\n{lines}"}
    write_files(project / "my_project.dist-info", info)
    write_files(project / "my_project", {"__init__.py": "", "archs.py": (project / "nets" / "tiny.py").read_text()})
    monkeypatch.syspath_prepend(project)
    registry.register_all.__wrapped__()
    assert "Tiny" in registry.names("network")
