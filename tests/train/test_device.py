"""What a GPU must not change: the training is the CPU's, also on two processes, and no step of it waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsr_arch.data.loader import to_device
from kdsr_arch.registry import register_all
from kdsr_arch.train.trainer import Trainer
from tests.helpers.networks import EDVR, SMALL, VESPCN, make_network
from tests.helpers.processes import environment, free_port
from tests.helpers.trainers import make_trainer, train

register_all()
# no L1: where two values nearly meet, rounding would turn its gradient
IMAGE_TERMS = {
    "fit": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1},
    "vid": {"type": "VIDLoss", "at": "body.0", "loss_weight": 0.01},
    "rkd": {"type": "RKDLoss", "at": "body.0", "loss_weight": 0.001},
    "fakd": {"type": "FAKDLoss", "at": "body.0", "criterion": "l2"},
    "sp": {"type": "SPLoss", "at": "body.0"},
    "at": {"type": "ATLoss", "at": "body.0"},
    "srkd": {"type": "SRKDLoss", "at": "body.0"},
    "out": {"type": "MSELoss", "loss_weight": {"balance": 0.5, "measurements": 2}},
}
STD_TERMS = {
    "motion": {"type": "MotionCompensationLoss", "student": "motion", "loss_weight": 0.01},
    "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": {"balance": 0.1, "measurements": 2}},
    "temporal": {"type": "TemporalMemoryLoss", "at": "f_sr", "normalize": "teacher_rms", "loss_weight": 0.1},
}
SGD = {"type": "SGD", "lr": 0.02, "momentum": 0.9}  # Adam would divide by gradients that are nothing but rounding


def options(folder: Path, kind: str, **of_training: Any) -> dict[str, Any]:
    """Options of a training of images or of clips under a teacher, which is written below `folder`."""
    network, teacher = {"images": (SMALL, {**SMALL, "num_feat": 12}), "clips": (VESPCN, EDVR)}[kind]
    torch.manual_seed(2)
    torch.save({"params": make_network(teacher).state_dict()}, folder / "t.pth")
    terms = IMAGE_TERMS if kind == "images" else STD_TERMS
    train_options = {"total_iter": 100, "optim_g": SGD, "pixel_opt": {"type": "MSELoss"}, "ema_decay": 0.9,
                     "scheduler": {"type": "MultiStepLR", "milestones": [12], "gamma": 0.5}, "grad_clip": 1.0,
                     "ratio_freq": 100, "distill_opt": terms, **of_training}  # fmt: skip
    scale = 2 if kind == "images" else 4
    path = {"pretrain_network_t": str(folder / "t.pth")}
    return {"scale": scale, "network_g": network, "network_t": teacher, "path": path, "train": train_options}


def batches(kind: str, count: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(5)
    lq, gt = {"images": ((4, 3, 8, 8), (4, 3, 16, 16)), "clips": ((2, 4, 3, 12, 12), (2, 2, 3, 48, 48))}[kind]
    return [{"lq": torch.rand(lq, generator=draw), "gt": torch.rand(gt, generator=draw)} for _ in range(count)]


def prepared(opt: dict[str, Any], sample: dict[str, torch.Tensor], **more: Any) -> Trainer:
    torch.manual_seed(0)
    return make_trainer({**opt, **more}, sample)


def parts(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What is trained, one vector for each part."""
    state = trainer.model.state()
    momenta = {str(key): value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
    named = {name: state[name] for name in ("net_g", "net_g_ema", "train_only")}
    named |= {"momenta": momenta} if momenta else {}
    kept = {name: [value for key, value in part.items() if "extra_state" not in key] for name, part in named.items()}
    return {name: torch.cat([value.double().flatten() for value in values]) for name, values in kept.items()}


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_after_twenty_iterations_all_that_is_trained_is_the_cpus(kind, cuda, tmp_path) -> None:
    """The two differ by less than 1e-5 of the way that the training went: by sums in another order."""
    opt, data = options(tmp_path, kind), batches(kind, 20)
    ours, theirs = (prepared(opt, data[0], num_gpu=num_gpu) for num_gpu in (1, 0))
    start = parts(theirs)
    for trainer in (ours, theirs):
        train(trainer, data)
    ends = parts(ours), parts(theirs)
    for name, value in ends[1].items():
        way = float((value - start.get(name, 0)).norm())
        apart = float((ends[0][name] - value).norm())
        assert way > 0 and apart <= 1e-5 * way, f"{name}: {apart / way:.1e} of the way"
    assert ours.figures() == pytest.approx(theirs.figures(), rel=1e-3)


WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"amp": "bf16", "channels_last": True},
    "Adam": {"optim_g": {"type": "Adam", "lr": 1e-3}},
    "accumulated": {"accumulation": 2},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["images", "clips"])
def test_between_two_lines_of_the_log_no_step_waits_for_the_gpu(kind, way, cuda, no_waiting, tmp_path) -> None:
    opt = options(tmp_path, kind, **WAYS[way])
    data = [to_device(batch, cuda) for batch in batches(kind, 2 * 40)]
    trainer = prepared(opt, data[0], num_gpu=1)
    each = trainer.options.accumulation
    train(trainer, data[: 2 * each])  # measures what balances need, builds what is kept
    with no_waiting():
        train(trainer, data[2 * each : 40 * each], 2)
    figures = trainer.figures()
    assert set(figures) >= {"l_pix", "grad_norm", *(f"l_{name}" for name in opt["train"]["distill_opt"])}
    assert all(value == value for value in figures.values())


def test_two_processes_on_one_gpu_are_one_training(cuda, write_options, tmp_path) -> None:
    """As torchrun starts them. Between processes that share a device there is gloo; nccl refuses."""
    train_options = {"optim_g": SGD, "pixel_opt": {"type": "MSELoss"}}
    common = {"num_gpu": 1, "dist_params": {"backend": "gloo"}, "train": train_options}
    sizes = {count: {"train": {"batch_size_per_gpu": 4 // count}} for count in (1, 2)}
    files = {count: write_options(tmp_path / str(count), **common, datasets=size) for count, size in sizes.items()}
    for process in [process for count, file in files.items() for process in _training(file, count)]:
        said = process.communicate(timeout=120)[1].decode()
        assert process.returncode == 0, said
    saved = [
        torch.load(tmp_path / str(count) / "experiments/tiny/models/net_g_8.pth", weights_only=True) for count in files
    ]
    for key in ("params", "params_ema"):
        for name, value in saved[0][key].items():
            torch.testing.assert_close(saved[1][key][name], value, rtol=1e-4, atol=1e-6)


def _training(file: Path, count: int) -> list[subprocess.Popen[bytes]]:
    """Start so many processes of one training, with products in float32."""
    command = [sys.executable, "-m", "kdsr_arch.cli", "train", "-opt", str(file), "--launcher", "pytorch"]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    own = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count))
    variables = [environment(**shared, **mine, NVIDIA_TF32_OVERRIDE="0") for mine in own]
    return [subprocess.Popen(command, env=given, stderr=subprocess.PIPE) for given in variables]


@pytest.mark.skipif(sys.platform != "linux", reason="is for the GNU C library")
def test_freed_memory_is_kept_on_the_cpu():
    program = """
import resource, torch
from kdsr_arch.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
print(faults())
keep_freed_memory()
for _ in range(10):  # the heap grows to what is needed
    faults()
print(faults())
"""
    run = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True)
    anew, kept = map(int, run.stdout.split())
    if anew < 100:
        pytest.skip("this C library keeps freed memory by itself")
    assert kept < anew / 100
