"""`kdsr list KIND`: what an option file can name: losses, methods, networks, data sets, metrics and more.

Classes of yours that were imported are listed with the others.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from typing import Any

from kdsr_arch.commands.common import add_import_flag, bring_in_named

_KINDS = {  # what the command line calls a kind -> what the registries do
    "losses": "loss",
    "networks": "network",
    "datasets": "data set",
    "metrics": "metric",
    "models": "model",
    "optimizers": "optimizer",
    "schedulers": "scheduler",
}
_WIDEST = 100  # characters of a description


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kind."""
    parser.add_argument("kind", choices=["methods", *_KINDS], help="what to list")
    add_import_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for each: its name, whose it is, and what it says of itself."""
    bring_in_named(args)
    rows = list(_methods() if args.kind == "methods" else _named(_KINDS[args.kind]))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, owner, text in rows:
        print(f"{name:{widths[0]}}  {owner:{widths[1]}}  {text}".rstrip())
    print("kdsr check --explain NAME lists the keywords")
    return 0


def _named(kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield those of a kind: ours first, then those of plug-ins, then BasicSR's and torch's."""
    from kdsr_arch.registry import lookup, names

    found = [(name, lookup(kind, name)) for name in names(kind)]
    owners = {name: _owner(thing) for name, thing in found}
    order = {"kdsr": 0, "basicsr": 2, "torch": 3}
    for name, thing in sorted(found, key=lambda item: (order.get(owners[item[0]], 1), item[0].lower())):
        yield name, owners[name], _summary(thing)


def _owner(thing: Any) -> str:
    top = str(getattr(thing, "__module__", "")).split(".")[0]
    return {"kdsr_arch": "kdsr"}.get(top, top)


def _summary(thing: Any) -> str:
    """The first sentence of its own docstring, on one line."""
    text = " ".join(inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].split())
    first = text.split(". ")[0].rstrip(".")
    return first if len(first) <= _WIDEST else f"{first[: _WIDEST - 3]}..."


def _methods() -> Iterator[tuple[str, str, str]]:
    """Yield the losses that say what method they are, with the usual taps and weight."""
    from kdsr_arch.losses.about import about_of
    from kdsr_arch.registry import lookup, names

    for name in sorted(names("loss"), key=str.lower):
        about = about_of(lookup("loss", name))
        if about is not None:
            yield name, about.use, f"{about.method}{f' ({about.paper})' if about.paper else ''}"
