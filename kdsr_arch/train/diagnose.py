"""Finds where NaN or infinity came from, once it is known that there is any: by running the step again, watched.

Nothing of this runs in a sound step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.distill.task import DistillTask, TaskOutput
from kdsr_arch.distill.terms import undisturbed


class Watch:
    """Inside a `with`, remembers the first module whose output, and then whose output's gradient, is not finite.

    Modules are told apart as the forward pass completes them, so the innermost one comes first.
    """

    def __init__(self, net: nn.Module) -> None:
        self.output = self.gradient = ""
        self._net = net
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        for name, module in self._net.named_modules():
            self._handles.append(module.register_forward_hook(partial(self._look, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _look(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        label = f"{name or 'the network itself'} ({type(module).__name__})"
        for tensor in tensors_of(output):
            if not self.output and not finite(tensor):
                self.output = label
            if tensor.requires_grad and tensor.is_floating_point():
                self._handles.append(tensor.register_hook(partial(self._look_back, label)))

    def _look_back(self, label: str, gradient: Tensor) -> None:
        if not self.gradient and not finite(gradient):
            self.gradient = label


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for held in value.values():
            yield from tensors_of(held)
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from tensors_of(held)


def finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor.detach()).all())


def bad_inputs(batch: Mapping[str, Any]) -> list[str]:
    """Keys of a batch that hold NaN or infinity: 'lq', 'gt', 'teacher.f_sr', ..."""
    found = []
    for key, value in batch.items():
        if isinstance(value, Mapping):
            found += [f"{key}.{name}" for name in bad_inputs(value)]
        elif any(not finite(t) for t in tensors_of(value)):
            found.append(key)
    return found


def bad_parameters(net: nn.Module) -> list[str]:
    """Names of parameters that are not finite."""
    return [name for name, param in net.named_parameters() if not finite(param)]


@contextmanager
def replayed(module: nn.Module) -> Iterator[None]:
    """Without compiled graphs, which know no new hooks; random states, buffers and extra state of `module` are
    afterwards what they were.
    """
    devices = [p.device for p in module.parameters() if p.device.type == "cuda"][:1]
    eager = torch.compiler.set_stance("force_eager")
    with torch.random.fork_rng(devices), undisturbed(module), torch.enable_grad(), eager:
        yield


def explain_step(
    task: DistillTask, batch: Mapping[str, Any], parts: Callable[[], Iterator[tuple[Tensor, Tensor]]], iteration: int
) -> str:
    """What a step's NaN or infinity came from, as the end of a sentence ('; ...'), or '' where it cannot be told.

    The first of these that applies: the batch, parameters that are broken already, the teacher's modules, the student's
    (the first output that is not finite), a term alone, the terms whose gradient is not finite and the module where
    that begins. Buffers, balances and `.grad` of the task are left as they were.

    Args:
        task: as it was when the step began.
        batch: everything the step was given, by key.
        parts: starts over with (lq, gt) of each part of the batch.
        iteration: counted from 1.
    """
    if keys := bad_inputs(batch):
        return f"; it is in the batch already: {_listed(keys)}"
    student, teacher = task.student, task.teacher_network()
    for name, net in (("the student", student), ("the teacher", teacher), ("the terms", task.terms)):
        if net is not None and (broken := bad_parameters(net)):
            return f"; parameters of {name} are broken already: {_listed(broken)}"
    found: list[str] = []
    with replayed(task), task.alone():
        for lq, gt in parts():
            with Watch(student) as ours, Watch(teacher or nn.Identity()) as theirs:
                output = task(lq, gt, iteration)
                found.append(_of_forward(ours, theirs, output) or _of_gradients(ours, output, student))
    return next((text for text in found if text), "")


def explain_forward(net: nn.Module, batch: Mapping[str, Any], run: Callable[[], Any], broken: list[str]) -> str:
    """The same for a step that is not ours: the batch, broken parameters, the first output that is not finite, or the
    parameters whose gradient was `broken`.

    Args:
        run: a forward pass of `net` on the batch.
    """
    if keys := bad_inputs(batch):
        return f"; it is in the batch already: {_listed(keys)}"
    if found := bad_parameters(net):
        return f"; parameters of the network are broken already: {_listed(found)}"
    with replayed(net), torch.no_grad(), Watch(net) as watch:
        run()
    if watch.output:
        return f"; it began at the output of {watch.output}"
    return f"; all outputs are finite, the gradient of {_listed(broken)} is not" if broken else ""


def _of_forward(ours: Watch, theirs: Watch, output: TaskOutput) -> str:
    if theirs.output:
        return f"; it began in the teacher, at the output of {theirs.output}"
    if ours.output:
        return f"; it began in the student, at the output of {ours.output}"
    bad = [name for name, value in output.losses.items() if not finite(value)]
    return f"; both networks' outputs are finite, {_listed(bad)} of them is not" if bad else ""


def _of_gradients(ours: Watch, output: TaskOutput, student: nn.Module) -> str:
    params = [p for p in student.parameters() if p.requires_grad]
    for name, loss in output.losses.items():
        if not loss.requires_grad or not params:
            continue
        gradients = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        if all(g is None or finite(g) for g in gradients):
            continue
        named = [n for n, p in student.named_parameters() if p.requires_grad]
        broken = [n for n, g in zip(named, gradients, strict=True) if g is not None and not finite(g)]
        where = f"the output of {ours.gradient}" if ours.gradient else f"the parameter {broken[0]}"
        return f"; all outputs and losses are finite, the gradient of {name} is not, from {where} on"
    return ""


def _listed(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
