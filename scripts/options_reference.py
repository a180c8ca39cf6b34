"""Writes options/schema.json and docs/options.md from the schema of option files.

python scripts/options_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path

from kdsr_arch.options.explain import entries, json_schema
from kdsr_arch.records import markdown_table


def markdown() -> str:
    """docs/options.md: every option in one table."""
    head = [
        "# Options",
        "",
        "Made from the schema (`python scripts/options_reference.py`); not to be edited by hand.",
        "",
    ]
    rows = [(f"`{e.key}`", e.kind, e.default.removeprefix("default "), e.text) for e in entries()]
    return "\n".join([*head, ""]) + markdown_table(("key", "kind", "default", "meaning"), rows, numbers=False) + "\n"


def generated() -> dict[str, str]:
    """The text of each generated file, by its path in the repository."""
    return {"options/schema.json": json.dumps(json_schema(), indent=1) + "\n", "docs/options.md": markdown()}


def main() -> None:
    """Write the files into this repository."""
    root = Path(__file__).resolve().parents[1]
    for name, text in generated().items():
        (root / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
