"""Self-contained HTML pages from the templates beside this file: style, script and images inside, nothing fetched."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdsr_arch.io import write_bytes

_LOADER = PackageLoader("kdsr_arch.report")


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template and write the page, whole or not at all.

    Args:
        path: the HTML file.
        template: its name in ``templates/``.
        values: what the template shows; texts are escaped.

    Raises:
        UserError: the file cannot be written.
    """
    environment = Environment(
        loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    folder = Path(__file__).parent / "templates"  # styles and scripts go in as they are: their braces are not ours
    environment.globals["asset"] = lambda name: Markup((folder / name).read_text(encoding="utf-8"))
    environment.tests["numeric"] = _is_number
    write_bytes(path, environment.get_template(template).render(values).encode(errors="backslashreplace"))
    return path


def data_uri(content: bytes, kind: str) -> str:
    """Return a file's content as an address that holds it.

    Args:
        content: the file's bytes.
        kind: its media type, such as 'image/png'.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _is_number(text: str) -> bool:
    """Tell whether a table's cell reads as a number, or as a missing one."""
    try:
        float(text.replace(",", "").split(" ")[0])
    except ValueError:
        return text in ("-", "")
    return True
