"""How the processes of a job learn their number and find one another, from torchrun or Slurm.

torchrun keeps one key-value store through all its restarts, with the addresses of dead processes in it. A process that
starts again may read such an address before its peer has written the new one, and then waits for nobody. So the
processes first agree on a word that no earlier start has used, and everything else is written below that word.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from kdsr_arch.errors import UserError

_PORTS = range(20000, 30000)  # below the ports that Linux hands out by itself


def prepare_environment(launcher: str, port: int | None = None) -> None:
    """Make sure of the variables that torch asks for: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, LOCAL_RANK.

    Args:
        launcher: 'none' (alone), 'pytorch' (torchrun sets them) or 'slurm' (they follow from srun's).
        port: Slurm only: where the first process listens; by default MASTER_PORT, or one made of the job's number.

    Raises:
        UserError: the launcher was not the one that started the process.
    """
    if launcher == "none":  # several processes that do not know of one another would train the same in one folder
        count = os.environ.get("WORLD_SIZE", "1")
        if "TORCHELASTIC_RUN_ID" in os.environ and count != "1":
            raise UserError(f"torchrun started {count} processes, but --launcher is none: add --launcher pytorch")
        return
    if launcher == "slurm":
        try:
            number, count = (os.environ[k] for k in ("SLURM_PROCID", "SLURM_NTASKS"))
            nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
        except KeyError as missing:
            raise UserError(f"--launcher slurm: {missing} is not set; start this command through srun") from None
        job = re.sub(r"\D", "", os.environ.get("SLURM_JOB_ID", "")) or "0"  # jobs that share a machine get other ports
        os.environ.setdefault("MASTER_ADDR", first_host(nodes))
        os.environ["MASTER_PORT"] = str(port or os.environ.get("MASTER_PORT") or _PORTS[int(job) % len(_PORTS)])
        os.environ["WORLD_SIZE"], os.environ["RANK"] = count, number
        os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    unset = [k for k in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]
    if unset:
        raise UserError(
            f"--launcher pytorch: {', '.join(unset)} not set; start with 'torchrun --nproc_per_node=N ...', "
            "or use --launcher none"
        )


def local_rank() -> int:
    """Return this process's number on its machine; 0 when nothing says otherwise."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def first_host(nodes: str) -> str:
    """Return the first name of a Slurm node list: ``node[03-06,11],login1`` -> ``node03``.

    Read here rather than by ``scontrol show hostnames``, which containers rarely hold.
    """
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])


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
    """Return answer to the word that is there, which may be an earlier start's, until an own answer is confirmed."""
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
