"""What the page of methods and ``kdsr list methods`` say of a loss beside its docstring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """Facts about a method, which stand at its loss as the class attribute `about`; docs/methods.md is made of them.

    Attributes:
        method: its name, and what it compares, in a few words.
        paper: authors, venue and year.
        formula: the value, S and T for student and teacher, x for the LR image, y for the ground truth.
        use: the usual taps and weight, as an option file writes them.
        ratio: the term's gradient on the student over the pixel loss's at that weight, as far as it was measured.
        options: the shipped option file that uses it; empty where there is none.
        store: whether `teacher_cache` can replace the teacher, "yes" or "no", where `live_teacher` does not say it.
    """

    method: str
    paper: str
    formula: str
    use: str
    ratio: str = ""
    options: str = ""
    store: str = ""


_USE = "none: the outputs, 1"
_BASICSR = {
    "L1Loss": About(
        "output distillation, the control of all others",
        "",
        "mean |S(x) - T(x)|",
        _USE,
        ratio="1.6 to 2.9 (fakd_x4, pisr_x4, srkd_x3, std_demo)",
        options="train_dat_light.yml",
    ),
    "MSELoss": About("output distillation, squared", "", "mean (S(x) - T(x))²", _USE),
    "CharbonnierLoss": About("output distillation, smooth at 0", "", "mean √((S(x) - T(x))² + ε)", _USE),
}


def about_of(loss: Any) -> About | None:
    """Return the facts that stand at a loss itself, not at a class that it derives from; those of BasicSR's losses."""
    own = vars(loss).get("about")
    if isinstance(own, About):
        return own
    return _BASICSR.get(loss.__name__) if str(loss.__module__).startswith("basicsr.") else None
