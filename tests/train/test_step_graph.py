"""A step recorded as a CUDA graph trains as the plain step does."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from kdsr_arch.train import step_graph
from kdsr_arch.train.step_graph import make_capturable
from tests.helpers.messages import refuses
from tests.helpers.trainers import make_trainer, train

SMALL = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}


def options(num_gpu=1, **changes):
    base = {"total_iter": 30, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"},
            "scheduler": {"type": "CosineAnnealingLR", "T_max": 30}, "ema_decay": 0.9, "cuda_graph": True}  # fmt: skip
    return {"scale": 2, "network_g": SMALL, "num_gpu": num_gpu, "train": {**base, **changes}}


def images(count, device):
    generator = torch.Generator().manual_seed(5)
    made = [(torch.rand(4, 3, 8, 8, generator=generator), torch.rand(4, 3, 16, 16, generator=generator))
            for _ in range(count)]  # fmt: skip
    return [{"lq": lq.to(device), "gt": gt.to(device)} for lq, gt in made]


CALM = {
    "optim_g": {"type": "Adam", "lr": 0.05, "eps": 0.1}
}  # with a small eps, gradients that are rounding count fully
WAYS = {
    "plain": {},
    "clipped": {"grad_clip": 0.01},
    "bf16": {"amp": "bf16"},
    "channels_last": {"channels_last": True},
    "fused": {"optim_g": {"type": "Adam", "lr": 1e-3, "fused": True}},
}


def trained(count=30, **changes):
    torch.manual_seed(1)
    data = images(count, "cuda")
    trainer = make_trainer({**options(**changes), "deterministic": True}, data[0])
    with trainer.graph.on_stream() if trainer.graph else nullcontext():
        train(trainer, data)
    return trainer


@pytest.mark.parametrize("way", WAYS)
def test_a_recorded_training_is_bit_for_bit_the_one_that_is_not_recorded(cuda, way, monkeypatch):
    recorded = trained(**WAYS[way])
    monkeypatch.setattr(step_graph, "_WARM_UP", 1000)
    same = trained(**WAYS[way])
    assert recorded.graph._graph is not None and same.graph._graph is None
    for ours, theirs in zip(recorded.model.ema.net.parameters(), same.model.ema.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert recorded.figures() == same.figures()


def test_a_recorded_training_is_the_plain_one(cuda):
    plain, recorded = trained(cuda_graph=False, **CALM), trained(**CALM)
    assert plain.graph is None
    for ours, theirs in zip(recorded.model.ema.net.parameters(), plain.model.ema.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert recorded.figures()["l_pix"] == pytest.approx(plain.figures()["l_pix"], rel=1e-4)


def test_weights_that_change_reach_the_recorded_step(cuda):
    schedule = {"constant": 1.0, "schedule": [[0, 1.0], [20, 0.25]]}
    edges = {"type": "L1Loss", "teacher": "gt", "student": "output", "loss_weight": schedule}
    changes = {"distill_opt": {"edges": edges}, "ratio_freq": 7, **CALM}
    plain, recorded = (trained(cuda_graph=graph, **changes).figures() for graph in (False, True))
    assert set(plain) == set(recorded) >= {"l_edges"}
    for name, value in plain.items():
        assert recorded[name] == pytest.approx(value, rel=1e-3)


def test_no_recorded_step_waits_for_the_gpu(cuda, no_waiting):
    torch.manual_seed(1)
    data = images(60, "cuda")
    trainer = make_trainer(options(grad_clip=0.5), data[0])
    with trainer.graph.on_stream():
        train(trainer, data[:10])
        with no_waiting():
            train(trainer, data[10:], 10)
    assert trainer.graph._graph is not None and trainer.figures()["l_pix"] > 0


def test_stages_are_recorded_one_by_one(cuda):
    terms = {"finish": {"type": "MSELoss", "teacher": "gt", "student": "output"}}
    stages = [{"iters": 15, "terms": ["pixel"], "freeze": ["conv_first"]}, {"iters": 15, "terms": ["finish"]}]
    changes = {"distill_opt": terms, "stages": stages, "ratio_freq": 1000}
    plain, recorded = trained(cuda_graph=False, **changes), trained(**changes)
    for ours, theirs in zip(recorded.model.student.parameters(), plain.model.student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def test_without_cuda_the_steps_run_one_by_one():
    data = images(3, "cpu")
    trainer = make_trainer(options(num_gpu=0), data[0])
    assert trainer.graph is None
    train(trainer, data)


def test_counters_of_a_resumed_optimizer_go_to_the_device():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    make_capturable(optimizer)
    assert optimizer.param_groups[0]["capturable"] and optimizer.state[parameter]["step"].item() == 1


@pytest.mark.parametrize("kind", ["Adagrad", "SGD"])
def test_an_optimizer_that_asks_the_gpu_is_refused(kind):
    with refuses(f"{kind} cannot be recorded"):
        make_capturable(getattr(torch.optim, kind)([torch.nn.Parameter(torch.ones(3))]))


def test_a_recorded_training_goes_on_without_a_graph():
    """Its optimizer's state, read where there is no GPU, is that of the plain optimizer."""
    data = images(4, "cpu")
    whole, first, second = (prepared(data[0]) for _ in range(3))
    train(whole, data)
    train(first, data[:2])
    state = first.model.state()
    for group in state["optimizer"]["param_groups"]:
        group |= {"capturable": True, "fused": True}
    second.model.load_state(state)
    train(second, data[2:], 2)
    for ours, theirs in zip(second.model.parameters, whole.model.parameters, strict=True):
        assert torch.equal(ours, theirs)


def prepared(sample):
    torch.manual_seed(1)
    return make_trainer(options(num_gpu=0), sample)
