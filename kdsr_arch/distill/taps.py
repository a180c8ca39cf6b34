"""Recording what modules of a network compute, without changing the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.infer.traits import Traits, unwrap

Value = Tensor | tuple[Tensor, ...]
OUTPUT = "output"
"""The reserved tap name for what the whole network returns."""
DATA = ("lq", "gt")
"""Reserved names on the teacher's side of a term: the batch itself, which needs no teacher."""


class Taps(Mapping[str, Any]):
    """What a forward pass recorded: ``taps[path]`` is a Tensor or a tuple of Tensors.

    A module that fired several times gives a list, in the order of firing; ``taps.fires(path)`` is a list always.
    """

    def __init__(self, store: dict[str, list[Value]]) -> None:
        self._store = store

    def __getitem__(self, path: str) -> Value | list[Value]:
        fires = self.fires(path)
        return fires[0] if len(fires) == 1 else fires

    def __iter__(self) -> Iterator[str]:
        return iter(self._store)

    def __len__(self) -> int:
        return len(self._store)

    def fires(self, path: str) -> list[Value]:
        """Everything the module at ``path`` returned, one entry for each time it fired."""
        return self._store[path]


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
        >>> taps['conv_hr'].shape
    """

    def __init__(self, net: nn.Module, paths: Iterable[str]) -> None:
        self.net = unwrap(net)
        self.name = type(self.net).__name__
        self.paths = tuple(dict.fromkeys(paths))
        self.copies: frozenset[str] | None = None
        self._modules = {path: find_module(self.net, path) for path in self.paths}
        self._hooks = {path: self._make_hook(path) for path in self.paths}
        self._handles: list[Any] = []
        self._store: dict[str, list[Value]] = {}
        self._versions: list[tuple[str, Tensor, int]] = []

    def __enter__(self) -> Taps:
        if self._handles:
            raise RuntimeError(f"the taps of {self.name} are already being recorded: use a second Recorder")
        for path in self.paths:
            self._store[path] = []
            self._handles.append(self._modules[path].register_forward_hook(self._hooks[path]))
        return Taps(self._store)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, versions = [], self._versions
        self._store, self._versions, store = {}, [], self._store
        if kind is None:
            self._check_fired(store)
            self._check_versions(versions)

    def _check_fired(self, store: dict[str, list[Value]]) -> None:
        for path in self.paths:
            if not store[path]:
                raise UserError(
                    f"tap '{path}' of {self.name} never fired: the module exists but its forward is not "
                    f"called; tap a module that is, such as {_some(self._fired_hint(path))}"
                )

    def _fired_hint(self, path: str) -> list[str]:
        parent = path.rpartition(".")[0]
        names = [name for name, _ in self.net.named_modules() if name and name != path]
        return [name for name in names if name.startswith(path + ".") or name.rpartition(".")[0] == parent]

    def _check_versions(self, versions: list[tuple[str, Tensor, int]]) -> None:
        altered = frozenset(path for path, tensor, version in versions if tensor._version != version)
        if self.copies is None:
            if versions:
                self.copies = altered
        elif altered:
            raise UserError(
                f"tap '{min(altered)}' of {self.name} was altered in place, which it was not in the dry "
                "run: the network must take the same path in both"
            )

    def _make_hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            value = self._flatten(path, output)
            copy = self.copies is None or path in self.copies
            if not torch.compiler.is_compiling() and (self.copies is None or not copy):
                self._watch(path, value)
            self._store[path].append(_clone(value) if copy else value)

        return hook

    def _watch(self, path: str, value: Value) -> None:
        for tensor in value if isinstance(value, tuple) else (value,):
            if not tensor.is_inference():
                self._versions.append((path, tensor, tensor._version))

    def _flatten(self, path: str, output: Any) -> Value:
        if isinstance(output, Tensor):
            return output
        tensors = tuple(_tensors(output))
        if not tensors:
            raise UserError(
                f"tap '{path}' of {self.name} returns {type(output).__name__}, no tensor: tap another module"
            )
        return tensors


def record(net: nn.Module, paths: Iterable[str]) -> Recorder:
    """``with record(net, paths) as taps: y = net(x)``: a Recorder for one use, which clones what it records."""
    return Recorder(net, paths)


def find_module(net: nn.Module, path: str) -> nn.Module:
    """The submodule of ``net`` at ``path``; UserError with the nearest names when there is none."""
    modules = dict(net.named_modules())
    if path and path in modules:
        return modules[path]
    known = [name for name in modules if name]
    hint = nearest(path, known) or f" (it has {_some(known)})"
    raise UserError(f"{type(net).__name__} has no module '{path}' to tap{hint}")


def resolve(net: nn.Module, traits: Traits, name: str) -> str:
    """The module path that ``name`` stands for: a path, an alias of ``traits.taps`` (f_sr, f_lr), or ``'output'``."""
    net = unwrap(net)
    if name == OUTPUT or name in dict(net.named_modules()):
        return name
    if name in traits.taps:
        return traits.taps[name]
    aliases = ", ".join(traits.taps) or "none"
    hint = nearest(name, [*(n for n, _ in net.named_modules() if n), *traits.taps])
    raise UserError(
        f"{type(net).__name__} has no module '{name}' to tap{hint}; its tap aliases: {aliases}; "
        f"its parts: {_some([n for n, _ in net.named_children()])}"
    )


def compile_network(net: nn.Module, **options: Any) -> nn.Module:
    """``torch.compile(net)`` whose graphs can be recorded: guards on hooks are kept and buffers are not donated.

    Args:
        options: keywords of ``torch.compile`` (``backend``, ``mode``, ``dynamic``, ...).
    """
    import torch._dynamo
    import torch._functorch.config

    # Without these guards a graph traced while no hook was there would silently serve a call that records.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    # Gradients are measured term by term on one graph, which donated buffers forbid.
    if hasattr(torch._functorch.config, "donated_buffer"):
        torch._functorch.config.donated_buffer = False
    return cast(nn.Module, torch.compile(net, **options))


def stop_inplace(net: nn.Module) -> None:
    """Turns off in-place activations (``module.inplace``) everywhere in ``net``; its results stay the same."""
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


def _clone(value: Value) -> Value:
    return tuple(t.clone() for t in value) if isinstance(value, tuple) else value.clone()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)


def _some(names: list[str], count: int = 6) -> str:
    return ", ".join(f"'{n}'" for n in names[:count]) + (", ..." if len(names) > count else "") if names else "none"
