"""Writes options/schema.json and docs/options.md from the schema of option files, docs/methods.md from the losses.

python scripts/options_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdsr_arch.losses.about import About, about_of
from kdsr_arch.options.explain import entries, json_schema, meanings_of
from kdsr_arch.records import markdown_table
from kdsr_arch.registry import is_basicsr, is_ours, keywords_of, lookup, names

ROOT = Path(__file__).resolve().parents[1]
# what stands between these lines of docs/methods.md is made; the prose around it is written by hand
_BEGIN, _END = "<!-- made by scripts/options_reference.py: from here -->", "<!-- to here -->"


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


def methods() -> dict[str, tuple[Any, About]]:
    """The losses that say which method they are, ours first, by their names; plug-ins are left out."""
    found = {name: lookup("loss", name) for name in sorted(names("loss"), key=str.lower)}
    shipped = {name: loss for name, loss in found.items() if is_ours(loss) or is_basicsr(loss)}
    known = {name: (loss, about) for name, loss in shipped.items() if (about := about_of(loss)) is not None}
    return dict(sorted(known.items(), key=lambda item: not is_ours(item[1][0])))


def methods_page() -> str:
    """docs/methods.md: the prose as it is, the tables anew."""
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    rows = []
    for name, (loss, about) in methods().items():
        method = f"{about.method} ({about.paper})" if about.paper else about.method
        use = f"`{about.use}`" if about.use.startswith("{") else about.use
        store = about.store or ("no" if getattr(loss, "live_teacher", False) else "yes")
        rows.append((f"`{name}`", method, use, store, f"`{about.options}`" if about.options else ""))
    head = ("type", "method", "usual taps and weight", "store", "option file")
    sections = "\n\n".join(_section(name, loss, about) for name, (loss, about) in methods().items() if is_ours(loss))
    table = markdown_table(head, rows, numbers=False)
    return f"{before}{_BEGIN}\n\n{table}\n\n## Formulas and keys\n\n{sections}\n\n{_END}{after}"


def _section(name: str, loss: Any, about: About) -> str:
    lines = [f"### {name}", "", f"`{about.formula}`", ""]
    if about.ratio:
        lines += [f"Gradient ratio: {about.ratio}.", ""]
    meanings = meanings_of(loss)
    for key, parameter in keywords_of(loss).parameters.items():
        default = "" if parameter.default is parameter.empty else f" ({parameter.default!r})"
        lines.append(f"- `{key}`{default}{f': {meanings[key]}' if key in meanings else ''}")
    return "\n".join(lines).rstrip()


def generated() -> dict[str, str]:
    """The text of each generated file, by its path in the repository."""
    schema = json.dumps(json_schema(), indent=1) + "\n"
    return {"options/schema.json": schema, "docs/options.md": markdown(), "docs/methods.md": methods_page()}


def main() -> None:
    """Write the files into this repository."""
    for name, text in generated().items():
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
