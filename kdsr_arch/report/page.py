"""One self-contained HTML page: images inside, tables that sort, light and dark, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from kdsr_arch.infer.png import write_bytes
from kdsr_arch.report.page_assets import SCRIPT, STYLE


class Page:
    """Collects sections and writes them as one file.

    Args:
        title: the heading.
        lead: the sentence under it.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self._parts = [f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>']

    def section(self, heading: str, text: str = "") -> None:
        """A heading, with a paragraph under it where there is something to say."""
        self._parts.append(f"<h2>{escape(heading)}</h2>")
        if text:
            self.text(text)

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def finding(self, text: str) -> None:
        """A paragraph that stands out: what was found."""
        self._parts.append(f'<p class="finding">{escape(text)}</p>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
        """A table that sorts by a click on a column's head; numbers sort as numbers.

        Args:
            header: the columns' names.
            rows: texts; cells that read as a number are right-aligned.
            caption: said under the table: the protocol.
        """
        head = "".join(
            f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>' for name in header
        )
        body = "".join(f"<tr>{''.join(_cell(cell, column) for column, cell in enumerate(row))}</tr>" for row in rows)
        note = f"<caption>{escape(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="wide"><table class="sortable">{note}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def image(self, path: Path, caption: str, alt: str = "") -> None:
        """A PNG, embedded; a click shows it in full size."""
        data = base64.b64encode(path.read_bytes()).decode()
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt or caption)}" '
            f'tabindex="0"><figcaption>{escape(caption)}</figcaption></figure>'
        )

    def code(self, text: str) -> None:
        """A block in fixed width: commands, versions."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def html(self) -> str:
        """The whole page."""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<style>{STYLE}</style></head><body><main>{''.join(self._parts)}</main>"
            f"<script>{SCRIPT}</script></body></html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all."""
        write_bytes(path, self.html().encode())
        return path


def _cell(text: str, column: int) -> str:
    number = _is_number(text)
    kind = ' class="number"' if number else ""
    return f'<th scope="row">{escape(text)}</th>' if column == 0 and not number else f"<td{kind}>{escape(text)}</td>"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").split(" ")[0])
    except ValueError:
        return text in ("-", "")
    return True
