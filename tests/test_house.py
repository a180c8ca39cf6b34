"""Packages import in one direction only, the one that docs/architecture.md gives."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT


def documented_order() -> list[str]:
    """The rooms as the first column of the page's first table names them."""
    rows = re.findall(r"^\|(.*?)\|", (ROOT / "docs" / "architecture.md").read_text().split("At the top lie")[0], re.M)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def imported(file: Path) -> Iterator[str]:
    """Names below kdsr_arch that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("kdsr_arch."))


def test_the_page_names_every_package_once():
    packages = {path.parent.name for path in (ROOT / "kdsr_arch").glob("*/__init__.py")}
    assert sorted(documented_order()) == sorted(packages)


def test_no_package_imports_a_later_one():
    order = documented_order()
    for place, package in enumerate(order):
        for file in (ROOT / "kdsr_arch" / package).rglob("*.py"):
            later = set(imported(file)) & {*order[place + 1 :], "cli"}
            assert not later, f"{file.relative_to(ROOT)} imports {sorted(later)}"
