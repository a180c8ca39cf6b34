"""What torchrun and Slurm tell a process of a job: its number, how many there are, where the first one listens."""

from __future__ import annotations

import os
import re

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
    if launcher == "none":
        _refuse_forgotten_launcher()
        return
    if launcher == "slurm":
        _from_slurm(port)
    missing = [k for k in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]
    if missing:
        raise UserError(
            f"--launcher pytorch: {', '.join(missing)} not set; start with 'torchrun --nproc_per_node=N ...', "
            "or use --launcher none"
        )


def local_rank() -> int:
    """This process's number on its machine; 0 when nothing says otherwise."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def _refuse_forgotten_launcher() -> None:
    """Several processes that do not know of one another would all train the same, in the same folder."""
    count = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and count != "1":
        raise UserError(f"torchrun started {count} processes, but --launcher is none: add --launcher pytorch")


def _from_slurm(port: int | None) -> None:
    try:
        number, count = (os.environ[k] for k in ("SLURM_PROCID", "SLURM_NTASKS"))
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
    except KeyError as missing:
        raise UserError(f"--launcher slurm: {missing} is not set; start this command through srun") from None
    os.environ.setdefault("MASTER_ADDR", first_host(nodes))
    os.environ["MASTER_PORT"] = str(port or os.environ.get("MASTER_PORT") or _port_of_job())
    os.environ["WORLD_SIZE"], os.environ["RANK"] = count, number
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list: ``node[03-06,11],login1`` -> ``node03``.

    Read here rather than by ``scontrol show hostnames``, which containers rarely hold.
    """
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])


def _port_of_job() -> int:
    """Jobs that share a machine get different ports; the processes of one job the same."""
    digits = re.sub(r"\D", "", os.environ.get("SLURM_JOB_ID", "")) or "0"
    return _PORTS[int(digits) % len(_PORTS)]
