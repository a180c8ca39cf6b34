"""What the scripts share: a parser, the options for LR, and errors as one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed, too

from kdsr_arch.errors import UserError  # noqa: E402


def parser(description: str, lr: bool = False) -> argparse.ArgumentParser:
    """A parser with the script's docstring as its description; ``lr`` adds the options for low resolution."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if lr:
        made.add_argument("--lr", nargs=2, metavar=("SCALE", "KIND"), help="write the LR instead: 4 BI, or 4 BD")
        made.add_argument("--border", default="symmetric", choices=("symmetric", "replicate"), help="MATLAB's border")
    return made


def degradation(given: argparse.Namespace) -> dict | None:
    """``{scale, kind, border}`` as the arguments say, or None."""
    if given.lr is None:
        return None
    scale, kind = given.lr
    if not scale.isdecimal() or int(scale) < 2:
        raise UserError(f"--lr {scale} {kind}: the scale must be a whole number of 2 or more")
    return {"scale": int(scale), "kind": kind, "border": given.border}


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
