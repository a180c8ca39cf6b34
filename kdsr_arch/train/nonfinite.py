"""What happens to a training step with NaN or infinity in it: stop, or skip it, within limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.distill.terms import undisturbed
from kdsr_arch.parallel import distributed
from kdsr_arch.train.meter import NonFiniteError, Tally

log = logging.getLogger("kdsr")

# without the option to skip, a GPU is asked for its numbers once in so many steps
PERIOD_CUDA = 16
# steps in a row that the gradient scaler may leave out: its scale is then 2^40 times smaller than it was
SCALER_PATIENCE = 40

_FLAG = "_flag"


def _too_late() -> str:
    """What can be said once later steps have spoilt the weights."""
    return "; to learn where it began, resume with train.nonfinite: {skip: 0}"


class Guard:
    """Decides on each step, the same on all processes, and counts what was skipped.

    Without the option to skip, the losses are looked at on the device (see `Tally`); on the CPU at each step, on a GPU
    every PERIOD_CUDA steps, so that it never waits. With it, one number is read from the device at each step.

    Args:
        policy: `train.nonfinite`: 'stop', or {skip: N, in_a_row: M}.
        device: where the losses are.
        tally: takes in the losses of the steps that count.
    """

    def __init__(self, policy: str | Mapping[str, Any] | None, device: torch.device, tally: Tally) -> None:
        limits = policy if isinstance(policy, Mapping) else None
        self.skips = limits is not None
        self.limit: int = limits["skip"] if limits else 0
        self.in_a_row: int = (limits.get("in_a_row") or 10) if limits else 1
        self.each_step = self.skips or device.type == "cpu"
        self.tally = tally
        self.total, self.row, self.scaler_total, self.scaler_row = 0, 0, 0, 0
        self._losses: list[Mapping[str, Tensor]] = []
        # carries this process's losses through the averaging of gradients: 0, or NaN where one is not finite
        self.flag = nn.Parameter(torch.zeros(1, device=device))

    def kept(self, module: nn.Module) -> undisturbed | None:
        """What a skipped step must undo beside weights: batch-norm statistics, the measured balances. None: nothing is
        ever skipped.
        """
        if not self.skips:
            return None
        held = undisturbed(module)
        held.__enter__()
        return held

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """The losses of one part of the batch, before they are averaged over the processes."""
        self._losses.append({name: value.detach() for name, value in losses.items()})

    def seal(self) -> nn.Parameter:
        """Call when all parts were added: the flag, to be averaged together with the gradients."""
        poison = torch.stack([value.float() for part in self._losses for value in part.values()]).sum() * 0
        self.flag.grad = poison.reshape(1)
        return self.flag

    def sound(self, norm: Tensor, iteration: int, explain: Callable[[], str], scaled: bool = False) -> bool:
        """Whether the step may be taken.

        Args:
            norm: of the averaged gradient, on the device.
            explain: says where it began, as the end of a sentence, on each process; it may run the step again.
            scaled: a gradient scaler is at work, which meets infinite gradients itself; losses are looked at all the
                same.

        Raises:
            NonFiniteError: it is not sound, and nothing may be skipped, or nothing more.
        """
        parts, self._losses = self._losses, []
        assert self.flag.grad is not None
        figures = {} if scaled else {"grad_norm": norm}
        if self.each_step:
            if not bool(torch.isfinite(sum(figures.values(), self.flag.grad)).all()):
                values = [*(item for part in parts for item in part.items()), *figures.items()]
                self.refuse([n for n, v in values if not bool(torch.isfinite(v).all())], iteration, explain)
                return False
            self.row = 0
        for part in parts:
            self.tally.add(part, iteration)
        self.tally.add(figures, iteration)
        if not self.each_step:
            self.tally.add({_FLAG: self.flag.grad[0]}, iteration)
            if iteration % PERIOD_CUDA == 0:
                self.check()
        return True

    def check(self) -> None:
        """Look whether a step that was taken was not sound; all processes must call it together.

        Raises:
            NonFiniteError: it was not.
        """
        found = self.tally.first_bad()  # at the same iteration on all processes, which share the flag
        if found is not None:
            raise NonFiniteError(self._message(*found, _too_late))

    def refuse(self, names: list[str], iteration: int, explain: Callable[[], str]) -> None:
        """Skip a step in which `names` were not finite.

        Raises:
            NonFiniteError: it may not be skipped.
        """
        names = list(dict.fromkeys(names))
        message = self._message(iteration, names, explain)
        self.total, self.row = self.total + 1, self.row + 1
        if self.total > self.limit or self.row > self.in_a_row:
            spent = f"; train.nonfinite has let {self.total - 1} such steps pass" if self.limit else ""
            raise NonFiniteError(message + spent)
        log.warning("%s: step skipped (%d of at most %d)", message, self.total, self.limit)

    @staticmethod
    def _message(iteration: int, names: list[str], explain: Callable[[], str]) -> str:
        """One sentence, the same on all processes: of the first process that has a culprit of its own."""
        own = [name for name in names if name not in (_FLAG, "grad_norm")]
        mine = (own, explain())
        told = distributed.gather((bool(own), bool(mine[1]), mine))
        rank = max(range(len(told)), key=lambda r: (told[r][:2], -r))
        names, more = told[rank][2]
        where = f" (process {rank})" if len(told) > 1 else ""
        return f"iteration {iteration}: {', '.join(names) or 'grad_norm'} became NaN or infinite{where}{more}"

    def scaler_skipped(self, skipped: bool, scale: float) -> None:
        """Count a step that the gradient scaler left out.

        Raises:
            NonFiniteError: it has left out SCALER_PATIENCE in a row: no scale helps.
        """
        self.scaler_row = self.scaler_row + 1 if skipped else 0
        self.scaler_total += skipped
        if self.scaler_row >= SCALER_PATIENCE:
            raise NonFiniteError(
                f"the gradient scaler has left out {SCALER_PATIENCE} steps in a row, down to a scale of {scale:.3g}: "
                "the gradient is infinite or NaN at any scale; use train.amp bf16 or no"
            )

    def figures(self, scaled: bool) -> dict[str, float]:
        """For the log: steps skipped so far, where any can be."""
        found = {"skipped_steps": float(self.scaler_total)} if scaled else {}
        return found | ({"nonfinite_steps": float(self.total)} if self.skips else {})

    def state(self) -> dict[str, int]:
        """The counts."""
        return {k: getattr(self, k) for k in ("total", "row", "scaler_total", "scaler_row")}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on counting from `state`; what it does not hold begins at 0."""
        for key in self.state():
            setattr(self, key, int(state.get(key, 0)))
