"""MiPKD: mixed features and routed images against the layers called by hand; who learns, and what is kept of it."""

import pytest
import torch
from torch.nn import functional as F

import kdsr_arch.losses.mipkd_loss as mipkd
from tests.helpers.messages import refuses
from tests.helpers.networks import Image, Window, image_batch
from tests.helpers.options import make_task

MIXED = {"type": "MiPKDLoss", "at": ["head", "up"]}


def make(data, student=4, **term):
    torch.manual_seed(1)
    values = {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"mixed": MIXED | term}}
    return make_task(Image(student), Image(6), values, data).train()


def behind(net, tap, feature):
    """What the layers of an Image network behind a tap make of a feature."""
    return net.last(F.relu(net.up(feature) if tap == "head" else feature))


@pytest.mark.parametrize("target", ["teacher", "gt"])
def test_by_hand(target, monkeypatch):
    data = image_batch(4)
    task = make(data, auto=0.5, block=2.0, target=target, latent=5)
    student, teacher, lq = task.student, task._teacher.net, data["lq"]
    masks = [torch.rand(4, 5, side, side) < 0.4 for side in (8, 16)]
    drawn = iter(masks)
    route = [("head", teacher), ("head", student), ("up", teacher), ("up", student)]
    entry = torch.tensor([0, 0, 1, 1]).view(4, 1, 1, 1)
    monkeypatch.setattr(mipkd, "draw_mask", lambda latent, share: next(drawn))
    monkeypatch.setattr(mipkd, "draw_route", lambda images, taps: (entry, (torch.arange(4) % 2 == 0).view(4, 1, 1, 1)))
    wanted, latents, mixers = 0, {}, dict(zip(("head", "up"), task.terms["mixed"].loss.mixers, strict=True))
    ours = {"head": (s := student.head(lq)), "up": student.up(s)}
    theirs = {"head": (t := teacher.head(lq).detach()), "up": teacher.up(t).detach()}
    for mask, (tap, mixer) in zip(masks, mixers.items(), strict=True):
        latents[tap] = mask * mixer.of_teacher(theirs[tap]) + ~mask * mixer.of_student(ours[tap])
        wanted = wanted + F.l1_loss(mixer.to_teacher(latents[tap]), theirs[tap])
        wanted = wanted + 0.5 * F.l1_loss(mixer.to_teacher(mixer.of_teacher(theirs[tap])), theirs[tap])
    images = []
    for i, (tap, net) in enumerate(route):
        decode = mixers[tap].to_teacher if net is teacher else mixers[tap].to_student
        images.append(behind(net, tap, decode(latents[tap][i : i + 1])))
    goal = teacher(lq).detach() if target == "teacher" else data["gt"]
    wanted = wanted + 2 * F.l1_loss(torch.cat(images), goal)
    output = task(data, 1)
    torch.testing.assert_close(output.raw["l_mixed"], wanted)
    wanted.backward()
    modules = (student, task.terms)
    expected = [p.grad.clone() for m in modules for p in m.parameters() if p.grad is not None]
    for module in modules:
        module.zero_grad()
    output.losses["l_mixed"].backward()
    found = [p.grad for m in modules for p in m.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected)
    assert all(p.grad is None for p in teacher.parameters()) and student.last.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in task.train_only_parameters())
    assert not any("mixers" in name for name in student.state_dict())


def test_features_alone_need_no_live_teacher_and_no_decoder_to_the_student():
    data = image_batch(4)
    task = make(data, block=0)
    assert not task.terms["mixed"].needs_live_teacher()
    assert not any("to_student" in name for name in task.train_only_state())
    task(data, 1).losses["l_mixed"].backward()
    assert task.student.last.weight.grad is None and task.student.head.weight.grad.abs().sum() > 0
    assert make(data).terms["mixed"].needs_live_teacher()


def test_what_is_drawn():
    torch.manual_seed(0)
    mask = mipkd.draw_mask(torch.zeros(4, 8, 32, 32), 0.25)
    assert mask.float().mean().item() == pytest.approx(0.25, abs=0.01)
    entry, by_teacher = mipkd.draw_route(torch.zeros(3000, 3, 1, 1), 3)
    assert torch.bincount(entry.flatten(), minlength=3).tolist() == pytest.approx([1000] * 3, abs=120)
    assert by_teacher.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_what_is_refused():
    with refuses("MiPKDLoss", "share"):
        mipkd.MiPKDLoss(share=1)
    with refuses("MiPKDLoss", "target"):
        mipkd.MiPKDLoss(target="lq")
    with refuses("mixed", "layers inside them"):
        make(image_batch(4), at=["output"])
    with refuses("mixed", "of one size"):
        values = {"mixed": {"type": "MiPKDLoss", "student": "head", "teacher": "up"}}
        make_task(Image(4), Image(6), {"distill_opt": values}, image_batch(4))
    clips = {"lq": torch.rand(1, 5, 3, 8, 8), "gt": torch.rand(1, 3, 3, 16, 16)}
    with refuses("mixed", "networks of images"):
        term = {"type": "MiPKDLoss", "at": "f_lr"}
        make_task(Window(4, 3), Window(6, 3), {"distill_opt": {"mixed": term}}, clips)


def test_a_tap_of_two_pairs_is_mixed_by_both(monkeypatch):
    data = image_batch(2)
    pairs = {"type": "MiPKDLoss", "student": "head", "teacher": ["head", "head"]}
    values = {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"mixed": pairs}}
    task = make_task(Image(4), Image(6), values, data).train()
    entry = torch.arange(2).view(2, 1, 1, 1)
    monkeypatch.setattr(mipkd, "draw_route", lambda images, taps: (entry, entry < 0))  # each image by another pair
    task(data, 1).raw["l_mixed"].backward()
    moved = [mixer.to_student[0].weight.grad.abs().sum().item() for mixer in task.terms["mixed"].loss.mixers]
    assert min(moved) > 0
