"""Pickles with code in them, which must be refused and never run."""

from __future__ import annotations

import pickle
from typing import Any

from tests.fuzz.guard import CANARY

_CODE = f"import os; os.environ[{CANARY!r}] = '1'"


class Calls:
    """An object that pickles as a call of a function, as an attacker would write it."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def hostile_objects() -> list[Any]:
    """Return objects that would run code when unpickled."""
    import os
    import subprocess

    return [
        Calls(exec, _CODE),
        Calls(eval, f"__import__('os').environ.update({{{CANARY!r}: '1'}})"),
        Calls(os.mkdir, "escape"),
        Calls(os.system, "true"),
        Calls(subprocess.check_output, ["true"]),
        Calls(__import__, "antigravity"),
    ]


def hostile_pickles() -> list[bytes]:
    """Return raw pickles: the objects above, alone and inside a state dict, and opcodes written by hand."""
    wrapped = [pickle.dumps(thing, protocol=2) for each in hostile_objects() for thing in (each, {"params": each})]
    by_hand = [
        b"cos\nsystem\n(S'true'\ntR.",
        b'cbuiltins\nexec\n(S"' + _CODE.encode() + b'"\ntR.',
        b"(S'true'\nios\nsystem\n.",
        b"ctorch\nload\n(S'/etc/passwd'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(tR.",
        b"\x80\x02" + b"(" * 2000 + b"l" * 10 + b".",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02r\xff\xff\xff\xff.",
    ]
    return wrapped + by_hand
