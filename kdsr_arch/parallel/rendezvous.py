"""How the processes of a job find one another, also when torchrun starts them again.

torchrun keeps one key-value store through all its restarts, with the addresses of dead processes in it. A process that
starts again may read such an address before its peer has written the new one, and then waits for nobody. So the
processes first agree on a word that no earlier start has used, and everything else is written below that word.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

_PAUSE = 0.02  # seconds between two looks at the store


def meet(limit: timedelta) -> tuple[dist.Store, int, int]:
    """Meet the other processes that torch's environment variables describe.

    Args:
        limit: how long to wait for them.

    Returns:
        A store that only this start of the job uses, this process's number, and how many there are.

    Raises:
        RuntimeError: they did not come.
    """
    store, rank, count = next(rendezvous("env://", timeout=limit))
    deadline = time.monotonic() + limit.total_seconds()
    word = _lead(store, count, deadline) if rank == 0 else _follow(store, rank, deadline)
    return dist.PrefixStore(word, store), rank, count


def _lead(store: dist.Store, count: int, deadline: float) -> str:
    """Choose the word, wait until each has answered to it, confirm by repeating their answers."""
    word = uuid.uuid4().hex
    store.set("word", word)
    answers = [f"answer/{word}/{rank}" for rank in range(1, count)]
    while waiting := [key for key in answers if not store.check([key])]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {count - len(waiting)} of {count} processes came")
        time.sleep(_PAUSE)
    store.set(f"confirmed/{word}", ",".join(store.get(key).decode() for key in answers))
    return word


def _follow(store: dist.Store, rank: int, deadline: float) -> str:
    """Answer to the word that is there, which may be an earlier start's, until an own answer is confirmed."""
    own, answered = uuid.uuid4().hex, ""
    while time.monotonic() <= deadline:
        word = store.get("word").decode() if store.check(["word"]) else ""
        if word and word != answered:
            store.set(f"answer/{word}/{rank}", own)
            answered = word
        if word and store.check([f"confirmed/{word}"]) and own in store.get(f"confirmed/{word}").decode():
            return word
        time.sleep(_PAUSE)
    raise RuntimeError("the first process did not come")
