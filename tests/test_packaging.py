"""What is installed is what is here."""

from __future__ import annotations

import re

import yaml

import kdsr_arch
from tests.helpers import ROOT


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {path.parent for name in ("kdsr", "kdsr_arch") for path in (ROOT / name).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_folder_of_option_files_is_installed() -> None:
    found = re.search(r'"options/\{name\}" for name in \(([^)]*)\)', (ROOT / "setup.py").read_text())
    assert found and set(re.findall(r'"(\w+)"', found[1])) == {
        path.name for path in (ROOT / "options").iterdir() if path.is_dir()
    }


def test_users_type_checkers_see_the_types() -> None:
    setup = (ROOT / "setup.py").read_text()
    assert setup.count('"py.typed"') == 2 and all(
        (ROOT / name / "py.typed").is_file() for name in ("kdsr", "kdsr_arch")
    )


def test_the_launchers_folder_does_not_shadow_basicsr() -> None:
    assert not (ROOT / "basicsr" / "__init__.py").exists()


def test_every_requirement_is_pinned() -> None:
    def name(requirement: str) -> str:
        return re.split(r"[=<>\[]", requirement)[0].lower().replace("_", "-")

    asked = re.findall(r'"([A-Za-z][\w-]*(?:[<>=]=[\w.]+))"', (ROOT / "setup.py").read_text())
    pinned = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")}
    optional = {"pyiqa", "wandb"}  # extras of their own, which nothing here installs
    assert len(asked) > 20 and {name(requirement) for requirement in asked} - pinned == optional


def test_shipped_weights_tell_their_network() -> None:
    folder = ROOT / "kdsr_arch" / "weights"
    for weights in folder.glob("*.pth"):
        beside = yaml.safe_load(weights.with_suffix(".yml").read_text())
        assert beside["network"]["type"] and beside["scale"]
        assert weights.stat().st_size < 8 * 2**20


def test_the_citation_is_of_this_release() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == kdsr_arch.__version__ and citation["title"].startswith("KDSR")
    assert {"cff-version", "message", "authors", "license"} <= set(citation)
