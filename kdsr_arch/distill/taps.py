"""One side of a distillation: run a network, record what its modules compute, bring that into one form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdsr_arch.device import autocast
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits, unwrap
from kdsr_arch.losses.base import Edit

Batch = Mapping[str, Any]
"""A micro-batch: ``lq`` (B, C, h, w) or clips (B, T, C, h, w) with T = N + num_frame - 1; ``gt`` (B, C, H, W), or
(B, N, C, H, W), where 4-D with clips means N = 1; with a stored teacher, ``teacher``: its crops by name; and where the
motion of clips is known, ``flow`` (B, N - 1, 2, H, W) and ``visible`` (B, N - 1, 1, H, W), see Context."""
Value = Tensor | tuple[Tensor, ...]
Taps = dict[str, list[Value]]
"""What a forward pass recorded: by module path, what the module returned each time it fired."""
OUTPUT = "output"
"""The reserved tap name for what the whole network returns."""


class Recorder:
    """A reusable context manager that records the outputs of modules of a network.

    Hooks exist inside the ``with`` only. A later in-place operation of the network (``ReLU(inplace=True)``, ``x += y``)
    would change a recorded tensor behind the back of its reader. The first eager pass therefore clones every tap and
    compares version counters at its end; later passes clone only the taps (``copies``) that were altered.

    Compiled networks: give the ``torch.compile``d module itself. The hooks are traced into its graphs, guarded so that
    calls with and without recording use graphs of their own. Reuse one Recorder (its hooks keep their identity) and
    run the first, learning, pass on the bare network, since a compiled graph has no version counters.

    Args:
        net: the network, bare or compiled; DDP and DataParallel wrappers are looked through.
        paths: module paths (dotted names as in ``named_modules``).

    Raises:
        UserError: a path that names no module (with the nearest names), a tap that never fired inside the ``with``, or
            one that returned no tensor.

    Example:
        >>> with Recorder(net, ['conv_hr']) as taps:
        ...     y = net(x)
        >>> taps['conv_hr'][0].shape
    """

    def __init__(self, net: nn.Module, paths: Iterable[str]) -> None:
        self.net = unwrap(net)
        self.name = type(self.net).__name__
        self.paths = tuple(dict.fromkeys(paths))
        self.copies: frozenset[str] | None = None
        modules = {name: module for name, module in self.net.named_modules() if name}
        for path in self.paths:
            if path not in modules:
                hint = nearest(path, modules) or f" (it has {_some([*modules])})"
                raise UserError(f"{self.name} has no module '{path}' to tap{hint}")
        self._modules = {path: modules[path] for path in self.paths}
        self._hooks = {path: self._hook(path) for path in self.paths}
        self._handles: list[Any] = []
        self._store: Taps = {}
        self._versions: list[tuple[str, Tensor, int]] = []

    def __enter__(self) -> Taps:
        if self._handles:
            raise RuntimeError(f"the taps of {self.name} are already being recorded: use a second Recorder")
        for path in self.paths:
            self._store[path] = []
            self._handles.append(self._modules[path].register_forward_hook(self._hooks[path]))
        return self._store

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, versions = [], self._versions
        self._store, self._versions, store = {}, [], self._store
        if kind is not None:
            return
        for path in self.paths:
            if not store[path]:
                parent = path.rpartition(".")[0]
                names = [name for name, _ in self.net.named_modules() if name and name != path]
                near = [name for name in names if name.startswith(path + ".") or name.rpartition(".")[0] == parent]
                raise UserError(
                    f"tap '{path}' of {self.name} never fired: the module exists but its forward is not "
                    f"called; tap a module that is, such as {_some(near)}"
                )
        altered = frozenset(path for path, tensor, version in versions if tensor._version != version)
        if self.copies is None:
            if versions:
                self.copies = altered
        elif altered:
            raise UserError(
                f"tap '{min(altered)}' of {self.name} was altered in place, which it was not in the dry "
                "run: the network must take the same path in both"
            )

    def _hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensors = (output,) if isinstance(output, Tensor) else tuple(_tensors(output))
            if not tensors:
                raise UserError(
                    f"tap '{path}' of {self.name} returns {type(output).__name__}, no tensor: tap another module"
                )
            copy = self.copies is None or path in self.copies
            if not torch.compiler.is_compiling() and (self.copies is None or not copy):
                self._versions += [(path, t, t._version) for t in tensors if not t.is_inference()]
            value = tuple(t.clone() for t in tensors) if copy else tensors
            self._store[path].append(value[0] if isinstance(output, Tensor) else value)

        return hook


def resolve(net: nn.Module, traits: Traits, name: str) -> str:
    """Give the path that ``name`` stands for: a module's, that of an alias (f_sr, f_lr), or ``'output'``."""
    net = unwrap(net)
    if name == OUTPUT or name in dict(net.named_modules()):
        return name
    if name in traits.taps:
        return traits.taps[name]
    hint = nearest(name, [*(n for n, _ in net.named_modules() if n), *traits.taps])
    raise UserError(
        f"{type(net).__name__} has no module '{name}' to tap{hint}; its tap aliases: {_some([*traits.taps])}; "
        f"its parts: {_some([n for n, _ in net.named_children()])}"
    )


def compile_network(net: nn.Module, **options: Any) -> nn.Module:
    """Compile ``net`` so that its graphs can be recorded: guards on hooks are kept and buffers are not donated.

    Args:
        options: keywords of ``torch.compile`` (``backend``, ``mode``, ``dynamic``, ...).
    """
    allow_recording()
    return cast(nn.Module, torch.compile(net, **options))


def allow_recording() -> None:
    """Have torch.compile's graphs notice hooks; those that were traced before, and do not, are forgotten."""
    import torch._dynamo
    import torch._functorch.config

    # Without these guards a graph traced while no hook was there would silently serve a call that records.
    if torch._dynamo.config.skip_nnmodule_hook_guards:
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch._dynamo.reset()
    # Gradients are measured term by term on one graph, which donated buffers forbid.
    if hasattr(torch._functorch.config, "donated_buffer"):
        torch._functorch.config.donated_buffer = False


def stop_inplace(net: nn.Module) -> None:
    """Turn off in-place activations (``module.inplace``) everywhere in ``net``; its results stay the same."""
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)


def _some(names: list[str]) -> str:
    shown = names[:6]
    return ", ".join(f"'{n}'" for n in shown) + (", ..." if shown != names else "") if names else "none"


# ------------------------------------------------------------------------------------------------------------- one side


class Side:
    """The student or the teacher as it is run in training; a plain object, so that it adds nothing to a state dict.

    Args:
        net: the network, on its device; one that torch.compile has wrapped is run so from `compile` on.
        traits: its traits.
        name: 'student' or 'teacher', for messages.
        amp: precision of its forward pass: 'no', 'bf16', 'fp16'.
        compiled: whether `compile` compiles it.
    """

    def __init__(self, net: nn.Module, traits: Traits, name: str, amp: str, compiled: bool) -> None:
        self.net, self.traits, self.name = unwrap(net), traits, name
        self._amp = amp
        self._given, self._compiled = net, compiled
        self._runner = Runner(self.net, traits)
        self._recorders: dict[tuple[str, ...], Recorder] = {}
        self._copies: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_recorders": {}}  # their hooks would go on recording for the one that is copied

    def _settle(self) -> None:
        """Keep a teacher in evaluation mode: ``train()`` of a module that also holds it would move its statistics."""
        if self.name == "teacher" and self.net.training:
            self.net.eval()

    def resolve(self, name: str, where: str) -> str:
        """Give the module path of a tap's name; the error names the term where there is none."""
        try:
            return resolve(self.net, self.traits, name)
        except UserError as error:
            raise UserError(f"{where}.{self.name}: {error}") from None

    def run(self, batch: Batch, paths: Sequence[str], learn: bool = False) -> tuple[Tensor, Taps]:
        """Run the network on a batch: its LR images, or the ground truth where the network is privileged.

        Args:
            paths: modules to record.
            learn: the pass of the dry run, which finds the taps that have to be copied.

        Returns:
            The network's output and its taps.
        """
        self._settle()
        key, gt = tuple(paths), batch["gt"]
        recorder = Recorder(self.net, paths) if learn else self._recorders.get(key)
        if recorder is None:  # kept, since compiled graphs know their hooks
            recorder = self._recorders[key] = Recorder(self.net, paths)
            recorder.copies = self._copies & frozenset(paths)
        frames = None if batch["lq"].dim() == 4 else gt.shape[1] if gt.dim() == 5 else 1  # to restore; None for images
        with autocast(batch["lq"].device, self._amp), recorder as taps:
            sr = self._runner.forward(self.traits.given(batch["lq"], gt), frames)
        if learn and paths:
            self._copies = recorder.copies if recorder.copies is not None else frozenset(paths)
        return sr, taps

    def call(self, lq: Tensor, net: nn.Module) -> Tensor:
        """Run `net`, which is like this side's network, on images as that one is run; never compiled."""
        self._settle()
        with autocast(lq.device, self._amp):
            return Runner(net, self.traits).forward(lq)

    def resume(self, lq: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        """Run the network on images, with what the modules at some paths return edited; see `call`.

        Raises:
            UserError: a module that fires more than once, or an edit that changes the shape.
        """
        fired: set[str] = set()

        def hook(path: str, module: nn.Module, args: Any, output: Any) -> Tensor:
            value = edits[path](output) if isinstance(output, Tensor) and path not in fired else None
            if value is None or output.shape != value.shape:
                shape = tuple(value.shape) if value is not None else "(B, C, H, W)"
                raise UserError(f"tap '{path}' of the {self.name} must fire once with one map {shape}")
            fired.add(path)
            return value.clone()  # what comes behind may work in place

        handles = [self.net.get_submodule(path).register_forward_hook(partial(hook, path)) for path in edits]
        try:
            return self.call(lq, self.net)
        finally:
            for handle in handles:
                handle.remove()

    def compile(self) -> None:
        """Compile the network where the options ask for it; the network itself stays as it is."""
        if self._given is not self.net:
            allow_recording()
            self._runner = Runner(self._given, self.traits)
        elif self._compiled:
            self._runner = Runner(compile_network(self.net), self.traits)


def flat(images: Tensor) -> Tensor:
    """Reshape (B, N, C, H, W) to (B * N, C, H, W); images (B, C, H, W) stay."""
    return images.flatten(0, 1) if images.dim() == 5 else images


# ------------------------------------------------------------------------------------------------------------- one form


@dataclass(frozen=True)
class Feature:
    """One tapped layer: ``value`` (sequences * length, ...), the frames of a sequence next to one another.

    Attributes:
        value: a Tensor, or a tuple of Tensors where the module returns several.
        sequences: number of sequences; for a window network the clips of the batch.
    """

    value: Value
    sequences: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The value as a tuple, whether it is one or not."""
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def map(self, function: Callable[[Tensor], Tensor]) -> Feature:
        """Apply ``function`` to each tensor."""
        value = tuple(map(function, self.value)) if isinstance(self.value, tuple) else function(self.value)
        return Feature(value, self.sequences)

    def arranged(self, clip: bool) -> Value:
        """Give a loss its form: frames (F, ...), or with ``clip`` sequences (B, N, ...)."""
        if not clip:
            return self.value
        return self.map(lambda t: t.unflatten(0, (self.sequences, -1))).value


def fold(fires: Sequence[Value], batch: int, recurrent: bool, where: str) -> Feature:
    """Make one Feature of what a module returned each time it fired.

    A recurrent network's module fires once for each frame with the ``batch`` clips, or once for all of them; other
    modules that fire k times (weights shared within a network) give k sequences per clip.

    Args:
        fires: one entry for each time, in order.
        batch: number of clips (or images) B in the network's input.
        recurrent: whether the network takes whole clips.
        where: names the tap in error messages.
    """
    if isinstance(fires[0], tuple):
        if len({len(f) for f in fires}) > 1:
            raise UserError(f"{where}: the module returns different numbers of tensors each time it fires; tap another")
        parts = [_fold(column, batch, recurrent, where) for column in zip(*fires, strict=True)]
        return Feature(tuple(part for part, _ in parts), parts[0][1])
    return Feature(*_fold(fires, batch, recurrent, where))  # type: ignore[arg-type]


def _fold(fires: Sequence[Tensor], batch: int, recurrent: bool, where: str) -> tuple[Tensor, int]:
    if recurrent and fires[0].dim() == 5:  # (B, T, C, H, W)
        fires = [f.flatten(0, 1) for f in fires]
    if len({f.shape for f in fires}) > 1:
        shapes = sorted({str(tuple(f.shape)) for f in fires})
        raise UserError(
            f"{where}: the module fires {len(fires)} times with different shapes ({', '.join(shapes)}), "
            "which cannot be stacked; tap another"
        )
    count = fires[0].shape[0]
    if count % batch:
        raise UserError(
            f"{where}: records a batch of {count}, which is no multiple of the {batch} clip(s) of the "
            "input; tap a module that keeps the batch in front"
        )
    if len(fires) == 1:
        return fires[0], batch
    if recurrent and count == batch:
        return torch.stack(list(fires), dim=1).flatten(0, 1), batch
    stacked = torch.stack([f.unflatten(0, (batch, -1)) for f in fires], dim=1)  # (B, fires, N, ...)
    return stacked.flatten(0, 2), batch * len(fires)


def same_frames(student: Feature, teacher: Feature, where: str) -> tuple[Feature, Feature]:
    """Give both features as many frames: of the longer sequences the middle is taken.

    A recurrent network may see the frames that fill another's windows, and so record more frames at both ends.

    Raises:
        UserError: other counts of sequences, or an odd difference of lengths.
    """
    ours, theirs = (f.tensors[0].shape[0] // f.sequences for f in (student, teacher))
    if student.sequences != teacher.sequences or (ours - theirs) % 2:
        raise UserError(
            f"{where}: the student's tap gives {student.sequences} sequence(s) of {ours}, the teacher's "
            f"{teacher.sequences} of {theirs}: tap modules that fire equally often"
        )
    length = min(ours, theirs)
    return _middle(student, ours, length), _middle(teacher, theirs, length)


def _middle(feature: Feature, length: int, wanted: int) -> Feature:
    if length == wanted:
        return feature
    first = (length - wanted) // 2
    return feature.map(lambda t: t.unflatten(0, (-1, length))[:, first : first + wanted].flatten(0, 1))
