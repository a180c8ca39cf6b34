"""The optimizer, and what surrounds its step: the learning rate of the iteration, clipping, the average of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop, lr_scheduler

from kdsr_arch.errors import UserError, first_line
from kdsr_arch.ops.copying import copy_network
from kdsr_arch.options.schema_train import OptimizerOptions, SchedulerOptions
from kdsr_arch.registry import build

_POSITION = ("last_epoch", "_step_count", "_last_lr", "T_cur", "T_i")
_TRIED = 4096  # iterations that a schedule is tried on, beside the last


def build_optimizer(
    params: Iterable[nn.Parameter] | Iterable[Mapping[str, Any]], options: OptimizerOptions, key: str = "train.optim_g"
) -> Optimizer:
    """Make the optimizer that a section describes; keywords that are None keep the class's default.

    Args:
        params: parameters or parameter groups, as torch.optim takes them.
        key: where the section stands in the option file, for messages.

    Raises:
        UserError: unknown type or keyword, impossible value, nothing to train.
    """
    trained = list(params)
    if not trained:
        raise UserError(f"{key}: no parameter to train")
    keywords = {k: tuple(v) if isinstance(v, list) else v for k, v in options.keywords().items() if v is not None}
    return build("optimizer", {"type": options.type, **keywords}, key, trained)


def optimizer_state(optimizer: Optimizer, parts: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return its state dict, and beside it the names of its parameters, in its order.

    Args:
        parts: the modules that it trains, by name. Without names where one of its parameters is in none of them.
    """
    by_id = {id(parameter): name for name, parameter in _named(parts).items()}
    names = [by_id.get(id(parameter)) for parameter in _trained(optimizer)]
    return {**optimizer.state_dict(), **({} if None in names else {"names": names})}


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any], parts: Mapping[str, nn.Module]) -> None:
    """Take up what a saved optimizer remembers of its steps; rate, betas, weight decay, ... stay the present options'.

    Args:
        saved: what `optimizer_state` returned; without names, as of an earlier version, it goes by position.
        parts: see `optimizer_state`.

    Raises:
        ValueError: it is of other parameters.
    """
    groups, state = optimizer.state_dict()["param_groups"], saved["state"]
    if "names" in saved:
        # terms of an option file, or layers of a network, may stand in another order than when it was saved
        named, position = _named(parts), {id(parameter): i for i, parameter in enumerate(_trained(optimizer))}
        places = [position.pop(id(named.get(name)), None) for name in saved["names"]]
        if None in places or position:
            raise ValueError("the optimizer trains other parameters")
        state = {places[i]: values for i, values in state.items()}
    else:
        groups = [{**mine, "params": g["params"]} for mine, g in zip(groups, saved["param_groups"], strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for group in optimizer.param_groups:
        if isinstance(optimizer, RMSprop) and group["momentum"]:  # its buffers are made at the first step alone
            for parameter in group["params"]:
                if values := optimizer.state.get(parameter):
                    values.setdefault("momentum_buffer", torch.zeros_like(parameter))


def _named(parts: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """List the parameters of modules by name; a shared one by each of its names."""
    return {
        f"{part}.{name}": parameter
        for part, net in parts.items()
        for name, parameter in net.named_parameters(remove_duplicate=False)
    }


def _trained(optimizer: Optimizer) -> list[nn.Parameter]:
    """List an optimizer's parameters in the order in which its state dict numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class Schedule:
    """The learning rates of one optimizer, iteration by iteration.

    During the warm-up, iterations below `warmup`, the rate is initial_lr * iteration / warmup as in BasicSR;
    afterwards it is the schedule's own. (BasicSR's MultiStepRestartLR stays at (warmup - 1) / warmup of it for ever,
    as the schedule multiplies the rate that warm-up left; here the schedule never sees the warm-up.)

    Args:
        options: `train.scheduler`; keywords that are None keep the class's default.

    Raises:
        UserError: unknown type or keyword, impossible value.
    """

    def __init__(self, optimizer: Optimizer, options: SchedulerOptions | None, warmup: int = -1) -> None:
        self.optimizer, self.options, self.warmup = optimizer, options, warmup
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.scheduler: lr_scheduler.LRScheduler | None = None
        if options:
            keywords = {k: v for k, v in options.keywords().items() if v is not None}
            spec = {"type": options.type, **keywords}
            self.scheduler = build("scheduler", spec, "train.scheduler", optimizer)
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def advance(self, iteration: int) -> None:
        """Set the learning rates of `iteration` (from 1); to be called once before each."""
        groups = self.optimizer.param_groups
        if iteration > 1 and self.scheduler is not None:
            self._set(self._rates)
            self.scheduler.step()
            self._rates = [group["lr"] for group in groups]
        warming = iteration < self.warmup
        self._set([g["initial_lr"] / self.warmup * iteration for g in groups] if warming else self._rates)

    def try_out(self, total: int) -> None:
        """Go through the first iterations and the last of `total`, without a trace.

        Raises:
            UserError: the schedule fails or ends there, or its learning rate grows beyond all numbers.
        """
        if self.options is None:
            return
        trial, iteration = Schedule(_without_weights(self.optimizer), self.options), 0
        what, steps = f"train.scheduler: {self.options.type}", getattr(self.scheduler, "total_steps", None)
        if isinstance(steps, int) and steps < total:  # behind its end OneCycleLR rises again, then fails
            raise UserError(f"{what} ends after {steps:,} steps, before train.total_iter {total:,}: make them as many")
        try:
            for iteration in dict.fromkeys((*range(1, min(total, _TRIED) + 1), total)):
                vars(trial.scheduler)["last_epoch"] = iteration - 2  # differs before the last alone
                trial.advance(iteration)
                rates = [float(group["lr"]) for group in trial.optimizer.param_groups]
                if not all(abs(rate) <= torch.finfo(torch.float32).max for rate in rates):
                    raise UserError(f"{what} lets the learning rate grow beyond all numbers at iteration {iteration:,}")
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
            raise UserError(
                f"{what} fails at iteration {iteration:,} of train.total_iter {total:,} ({first_line(error)}): "
                "make its values fit"
            ) from None

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def advance_to(self, iteration: int) -> None:
        """Go through the iterations up to `iteration`, none of which was advanced to before."""
        vars(self.optimizer)["_opt_called"] = True  # torch warns of a schedule that moves before its optimizer
        for number in range(1, iteration + 1):
            self.advance(number)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the schedule, in plain values; milestones, periods, ... stay the option file's."""
        values = vars(self.scheduler) if self.scheduler is not None else {}
        return {"rates": list(self._rates), "position": {k: values[k] for k in _POSITION if k in values}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._rates = list(state["rates"])
        if self.scheduler is not None:
            vars(self.scheduler).update(state["position"])
            vars(self.optimizer)["_opt_called"] = True  # it was, before the resume: torch need not warn


def _without_weights(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer with the options of another's groups, before any schedule, and a number each to train."""
    left_out = ("params", "param_names", "initial_lr")
    groups = [
        {k: v for k, v in group.items() if k not in left_out}
        | {"lr": group["initial_lr"], "params": [torch.zeros(1, requires_grad=True)]}
        for group in optimizer.param_groups
    ]
    trial = Optimizer(groups, dict(optimizer.defaults))
    vars(trial)["_opt_called"] = True  # as in advance_to
    return trial


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients together, a scalar tensor on their device."""
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))


def clip_gradients(gradients: Sequence[Tensor], norm: Tensor, limit: float | None) -> None:
    """Scale the gradients down so that their norm is at most `limit`; None leaves them alone.

    Args:
        norm: their norm now, a scalar tensor.
    """
    if limit and gradients:
        torch._foreach_mul_(list(gradients), (limit / (norm + 1e-6)).clamp(max=1.0))


class EMA:
    """A copy of `net` that follows it: ema = decay * ema + (1 - decay) * net after each step.

    Parameters are averaged; buffers (batch-normalization statistics, counters) are copied, being averages already: a
    copy without them would be tested with the statistics of the first iteration.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.net = copy_network(net).eval().requires_grad_(False)
        # kept from step to step: the walk through the modules was up to a tenth of a tiny network's step
        self._mine, self._followed = _Walk(self.net), _Walk(net)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Follow `net` by one step."""
        if self._followed.net is not net:
            self._followed = _Walk(net)
        averaged, current = self._mine.tensors("_parameters"), self._followed.tensors("_parameters")
        if averaged:
            torch._foreach_mul_(averaged, self.decay)
            torch._foreach_add_(averaged, current, alpha=1 - self.decay)
        for mine, theirs in zip(self._mine.tensors("_buffers"), self._followed.tensors("_buffers"), strict=True):
            mine.copy_(theirs)


class _Walk:
    """The modules of a network that hold tensors of their own, found once."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._modules = {k: [m for m in net.modules() if getattr(m, k)] for k in ("_parameters", "_buffers")}

    def tensors(self, kind: str) -> list[Tensor]:
        """Return the parameters or buffers that the modules have now, each once, in the order of `parameters()`."""
        found: dict[int, Tensor] = {}
        for module in self._modules[kind]:
            for tensor in getattr(module, kind).values():
                if tensor is not None:
                    found[id(tensor)] = tensor
        return list(found.values())
