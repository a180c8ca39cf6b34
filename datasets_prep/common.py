"""What the scripts share: a parser, how a store is made, and errors as one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed, too

from kdsr_arch.commands.lmdb import add_making, making_of  # noqa: E402
from kdsr_arch.errors import UserError  # noqa: E402

__all__ = ["making_of", "parser", "run"]


def parser(description: str, making: bool = True) -> argparse.ArgumentParser:
    """A parser with the script's docstring as its description; ``making`` adds the options of `kdsr lmdb create`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if making:
        add_making(made)
    return made


def run(work: Callable[[], object]) -> None:
    """Does the work and prints its result; an error is one sentence and exit code 2."""
    try:
        result = work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    parts = result.items() if isinstance(result, dict) else [("written", result)]
    for name, part in parts:
        print(f"{name or 'images'}: {part}")
