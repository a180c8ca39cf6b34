"""Packages import in one direction only, the one that the README gives."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT


def readme_order() -> list[str]:
    house = (ROOT / "README.md").read_text().split("## The house")[1].split("Arrows run one")[0]
    return [name for name in re.findall(r"`(\w+)`", house) if name != "kdsr"]  # the command of that name


def imported(file: Path) -> Iterator[str]:
    """Names below kdsr_arch that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("kdsr_arch."))


def test_the_readme_names_every_package_once():
    packages = {path.parent.name for path in (ROOT / "kdsr_arch").glob("*/__init__.py")}
    assert sorted(readme_order()) == sorted(packages)


def test_no_package_imports_a_later_one():
    order = readme_order()
    for place, package in enumerate(order):
        for file in (ROOT / "kdsr_arch" / package).rglob("*.py"):
            later = set(imported(file)) & {*order[place + 1 :], "cli"}
            assert not later, f"{file.relative_to(ROOT)} imports {sorted(later)}"
