"""Two real processes with gloo: averaging, broadcasting, agreeing; and what a wrong start is told."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from kdsr_arch.options.schema import DistOptions
from kdsr_arch.parallel import distributed, launchers
from kdsr_arch.parallel.launchers import first_host, prepare_environment
from tests.helpers import ROOT
from tests.helpers.messages import refuses
from tests.helpers.processes import free_port, in_two_processes


def work() -> None:
    """Run in each of two processes."""
    distributed.start("pytorch")
    rank = distributed.rank()
    assert distributed.is_distributed() and distributed.world_size() == 2 and distributed.is_main() == (rank == 0)

    torch.manual_seed(rank)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
    net[0].weight.data = net[0].weight.data.contiguous(memory_format=torch.channels_last)
    distributed.broadcast_modules([net])
    sums = distributed.gather(float(sum(p.double().sum() for p in net.parameters())))
    assert sums[0] == sums[1], sums

    net[2].bias.requires_grad_(False)  # frozen
    x = torch.randn(2, 2, 5, 5)
    net[1](net[0](x)).sum().backward()  # net[2] gets no gradient
    mine = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    both = distributed.gather(mine)
    distributed.average_gradients(net.parameters())
    for k, p in net.named_parameters():
        if p.grad is None:
            assert k.startswith("2."), k
        else:
            torch.testing.assert_close(p.grad, (both[0][k] + both[1][k]) / 2)

    assert not torch.equal(*distributed.gather(net[1].running_mean.clone()))
    distributed.broadcast_buffers([net])
    means = distributed.gather((net[1].running_mean.clone(), int(net[1].num_batches_tracked)))
    assert torch.equal(means[0][0], means[1][0]) and means[0][1] == 1

    assert distributed.agree_max(rank * 15) == 15
    assert distributed.mean_values({"a": float(rank), "b": 2.0}) == {"a": 0.5, "b": 2.0}
    assert distributed.from_main({"r": rank}) == {"r": 0}
    distributed.barrier()
    distributed.stop()
    assert not distributed.is_distributed()


def test_two_processes(tmp_path: Path) -> None:
    in_two_processes(work, tmp_path)


def test_alone_everything_is_the_identity() -> None:
    net = torch.nn.Linear(2, 1)
    net(torch.ones(1, 2)).sum().backward()
    before = net.weight.grad.clone()
    distributed.start("none")
    distributed.average_gradients(net.parameters())
    distributed.broadcast_modules([net])
    assert torch.equal(net.weight.grad, before)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather(3) == [3] and distributed.agree_max(4) == 4 and distributed.from_main(5) == 5
    assert distributed.mean_values({"a": 1.0}) == {"a": 1.0}
    distributed.barrier()
    distributed.stop()


def test_missing_launcher_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    with refuses("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "torchrun", "--launcher none"):
        distributed.start("pytorch")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with refuses("SLURM_PROCID", "srun"):
        distributed.start("slurm")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with refuses("3 processes", "--launcher pytorch"):
        distributed.start("none")


def test_processes_that_would_have_to_share_a_gpu_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    group = {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, value in group.items():
        monkeypatch.setenv(key, value)
    with refuses("process 2", "start 2", "dist_params.backend", "gloo"):
        distributed.start("pytorch", use_cuda=True)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("alone", "alone"),
        ("node[03-06,11]", "node03"),
        ("a-1,b[2-3]", "a-1"),
        ("node[7,9],login1", "node7"),
        ("rack[1-2]-n[10-12].site", "rack1-n10.site"),
    ],
)
def test_first_host_of_a_slurm_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_slurm_variables_become_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "SLURM_STEP_NODELIST"):
        monkeypatch.setenv(key, "")  # so that all is put back in the end
        monkeypatch.delenv(key)
    given = {"PROCID": "5", "NTASKS": "8", "LOCALID": "1", "NODELIST": "n[4-5]", "JOB_ID": "1234567"}
    for key, value in given.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    prepare_environment("slurm")
    variables = {k: os.environ[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    wanted = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n4", "MASTER_PORT": "24567"}
    assert variables == wanted
    prepare_environment("slurm", port=4000)
    assert os.environ["MASTER_PORT"] == "4000"


def test_a_second_start_does_not_take_the_first_ones_word() -> None:
    """What torchrun's restart leaves in its store: a process of the new start must wait for the new first process."""
    store = dist.HashStore()

    def both() -> list[str]:
        words = ["", ""]
        deadline = time.monotonic() + 30
        one = threading.Thread(target=lambda: words.__setitem__(1, launchers._follow(store, 1, deadline)))
        one.start()
        time.sleep(0.2)  # long enough to fall for what is there already
        words[0] = launchers._lead(store, 2, deadline)
        one.join()
        return words

    first, second = both(), both()
    assert first[0] == first[1] != second[0] == second[1]


def test_processes_that_do_not_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for key, value in alone.items():
        monkeypatch.setenv(key, value)
    with refuses("process 0 of 2", "127.0.0.1", "1/2"):
        distributed.start("pytorch", options=DistOptions(timeout=1))


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (143, True), (2, False)])
def test_the_slurm_script_requeues_what_a_signal_has_ended(code: int, requeued: bool, tmp_path: Path) -> None:
    for name, body in {"srun": f'echo "$@"; exit {code}', "scontrol": 'echo scontrol "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = ROOT / "scripts" / "slurm_train.sh"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    done = subprocess.run(["bash", str(script), "a b.yml", "--debug"], env=env, capture_output=True, text=True)
    first, *rest = done.stdout.splitlines()
    assert first == "--kill-on-bad-exit=1 kdsr train -opt a b.yml --launcher slurm --auto_resume --debug"
    assert done.returncode == code and rest == (["scontrol requeue 12"] if requeued else [])
    assert subprocess.run(["bash", str(script)], env=env, capture_output=True).returncode not in (0, 143)
