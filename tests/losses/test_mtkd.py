"""MTKD: the network that joins against the authors' own, the loss by hand, who learns, stages, a store, a resume."""

import pytest
import torch
from torch.nn import functional as F

from kdsr_arch.distill.teachers import Ensemble
from kdsr_arch.losses.detail_loss import WaveletLoss
from kdsr_arch.losses.mtkd_loss import DCTSwin, MTKDLoss
from tests.helpers.messages import refuses
from tests.helpers.networks import Image, image_batch
from tests.helpers.options import make_task

SMALL = {"num_feat": 4, "depths": [2], "num_heads": 2, "window_size": 4}
JOINED = {"type": "MTKDLoss", "student": "output", "teacher": ["t", "t2"], "levels": 2, **SMALL}


def make(data, stages=(), **term):
    torch.manual_seed(1)
    values = {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"joined": JOINED | term}, "stages": [*stages]}
    return make_task(Image(4), Ensemble({"t": Image(6), "t2": Image(5)}, 2), values, data).train()


@pytest.mark.parametrize(
    ("depths", "mean", "some"),
    [
        ([1, 1], 0.03735705465078354, [-0.009382888674736023, -0.005966631695628166, 0.06852827221155167]),
        ([2, 2], 0.039219193160533905, [-0.014767116867005825, -0.006436396390199661, 0.07213323563337326]),
    ],
)
def test_the_network_against_the_authors_own(depths, mean, some):
    # what their DCTSwin makes of these weights and images, its masks for shifted windows set to 0
    net = DCTSwin(3, 3, 2, num_feat=12, depths=depths, num_heads=2, window_size=4)
    with torch.no_grad():
        for i, (name, p) in enumerate(sorted(net.named_parameters())):
            value = 0.1 * torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 0.37 + i)
            p.copy_((value + ("norm" in name and name.endswith("weight"))).view(p.shape))
        images = [torch.sin(torch.arange(2304.0) * 0.11 * k).view(2, 3, 16, 24) / 2 + 0.5 for k in (1, 2, 3)]
        joined = net(images)
    assert joined.abs().mean().item() == pytest.approx(mean, rel=1e-4)
    assert joined.flatten()[[0, 100, 1000]].tolist() == pytest.approx(some, abs=2e-6)


def test_the_published_size():
    assert sum(p.numel() for p in DCTSwin(3, 3, 4).parameters()) == 1_335_603  # counted in the authors' network


@pytest.mark.parametrize("base", ["mean", "color"])
def test_by_hand_and_who_learns(base):
    data = image_batch()
    task = make(data, base=base)
    loss, lq = task.terms["joined"].loss, data["lq"]
    teachers = [task._teacher.net.get_submodule(name)(lq) for name in ("t", "t2")]
    added = loss.joiner(teachers) / 255
    start = sum(teachers) / 2 if base == "mean" else torch.tensor([0.4488, 0.4371, 0.4040]).view(3, 1, 1)
    student = task.student(lq)
    wanted = WaveletLoss(2)(student, start + added) + F.l1_loss(start + added, data["gt"])
    output = task(data, 1)
    torch.testing.assert_close(output.raw["l_joined"], wanted)
    output.losses["l_joined"].backward()
    ours = {name: p.grad.clone() for name, p in loss.named_parameters()}
    assert all(g.abs().sum() > 0 for g in ours.values() if g.dim() > 1)
    assert all(p.grad is None for p in task._teacher.net.parameters())
    grads = task.student.head.weight.grad.clone()
    task.student.zero_grad()
    WaveletLoss(2)(task.student(lq), (start + added).detach()).backward()
    torch.testing.assert_close(grads, task.student.head.weight.grad)  # the joiner's own part does not move the student
    loss.zero_grad()
    F.l1_loss(loss.join([t.detach() for t in teachers]), data["gt"]).backward()
    torch.testing.assert_close(ours, {name: p.grad for name, p in loss.named_parameters()})  # nor the student's part it


def test_it_begins_as_the_mean_and_the_stages_take_turns():
    data = image_batch()
    everything = [name for name, _ in Image().named_children()]
    task = make(data, [{"iters": 2, "terms": ["joined"], "freeze": everything}, {"iters": 8, "freeze": ["joined"]}])
    task.set_stage(1)
    output = task(data, 1)
    assert task.measure(output, 1) == {}
    output.losses["l_joined"].backward()
    assert task.student.head.weight.grad is None and task.terms["joined"].loss.joiner.conv_last.weight.grad is not None
    task.set_stage(3)
    output = task(data, 3)
    sum(output.losses.values()).backward()
    assert task.student.head.weight.grad is not None and all(p.grad is None for p in task.terms.parameters())
    joined = task.terms["joined"].loss.join(teachers := [net(data["lq"]) for net in task._teacher.net.children()])
    torch.testing.assert_close(joined, sum(teachers) / 2, atol=0.01, rtol=0)
    torch.testing.assert_close(output.raw["l_joined"], WaveletLoss(2)(task.student(data["lq"]), joined))


def test_the_joiner_is_the_trainings_not_the_students():
    data = image_batch()
    task, again = make(data), make(data)
    assert not any("joiner" in name for name in task.student.state_dict())
    assert set(map(id, task.terms.parameters())) == set(map(id, task.train_only_parameters()))
    with torch.no_grad():
        task.terms["joined"].loss.joiner.conv_first.weight.add_(0.1)
    again.load_train_only_state(task.train_only_state())
    assert torch.equal(task(data, 1).raw["l_joined"], again(data, 1).raw["l_joined"])


def test_what_is_refused():
    with refuses("MTKDLoss", "depths", "num_heads"):
        MTKDLoss(depths=[])
    with refuses("MTKDLoss", "num_feat"):
        MTKDLoss(num_feat=10)
    with refuses("MTKDLoss", "distance"):
        MTKDLoss(distance="l3")
    with refuses("network_t2", "teacher: [t, t2]"):
        make(image_batch(), teacher="t")
