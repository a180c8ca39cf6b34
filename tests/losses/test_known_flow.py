"""Terms along the exact flow, by hand and through the task."""

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.data.still_clip_dataset import StillClipDataset
from kdsr_arch.losses.base import Context
from kdsr_arch.losses.flow_memory_loss import FlowMemoryLoss
from kdsr_arch.losses.known_flow_loss import FlowConsistencyLoss, FlowDifferenceLoss, known_motion
from kdsr_arch.losses.temporal_memory_loss import TemporalMemoryLoss
from tests.helpers.messages import refuses
from tests.helpers.networks import Window
from tests.helpers.options import make_task


def context(flow, visible):
    unused = torch.zeros(1)
    return Context(unused, unused, unused, 1, *[None] * 6, flow=flow, visible=visible)


def moving_right(frames=3, by=2, size=(6, 10)):
    """What is at x goes to x + ``by``; what would leave the frame is not visible."""
    flow = torch.zeros(1, frames - 1, 2, *size)
    flow[:, :, 0] = by
    visible = torch.ones(1, frames - 1, 1, *size)
    visible[..., size[1] - by :] = 0
    return context(flow, visible)


def picture(frames=3, by=2, size=(6, 10)):
    whole = torch.rand(3, size[0], size[1] + by * frames)
    starts = [by * (frames - 1 - t) for t in range(frames)]
    return torch.stack([whole[..., start : start + size[1]] for start in starts])[None]


@pytest.mark.parametrize("criterion,expected", [("l1", (0.5 + 0.25) / 2), ("l2", (0.25 + 0.0625) / 2)])
def test_by_hand(criterion, expected):
    """A clip that only moves costs nothing; one that brightens by 0.5, then 0.25, costs that."""
    clip, known = picture(), moving_right()
    steady, difference = FlowConsistencyLoss(criterion), FlowDifferenceLoss(criterion)
    assert steady([clip], known) < 1e-6
    brighter = clip + torch.tensor([0.0, 0.5, 0.75]).view(3, 1, 1, 1)
    torch.testing.assert_close(steady([brighter], known), torch.tensor(expected), atol=1e-6, rtol=0)
    torch.testing.assert_close(steady([brighter, brighter], known), torch.tensor(2 * expected), atol=1e-6, rtol=0)
    # a teacher that brightens alike asks for it; one that does not finds the same fault
    assert difference([brighter], [brighter + 0.3], known) < 1e-6
    torch.testing.assert_close(difference([brighter], [clip], known), torch.tensor(expected), atol=1e-6, rtol=0)


def test_an_error_that_goes_with_its_object_costs_nothing():
    clip, known, stain = picture(), moving_right(), picture()
    assert FlowDifferenceLoss()([clip + stain], [clip], known) < 1e-6
    still = stain[:, :1].expand_as(stain)
    assert FlowDifferenceLoss()([clip + still], [clip], known) > 0.05


def test_what_is_not_visible_does_not_count_and_nothing_visible_is_zero():
    clip, known = picture().requires_grad_(), moving_right()
    spoiled = clip.detach().clone()
    spoiled[:, 0, ..., 8:] = 7  # leaves the frame before the next
    assert FlowConsistencyLoss()([spoiled], known) < 1e-6
    value = FlowConsistencyLoss()([clip], context(known.flow, torch.zeros_like(known.visible)))
    value.backward()
    assert value == 0 and not clip.grad.any()


def test_maps_of_lower_resolution_take_the_mean_of_the_flow():
    flow = torch.zeros(1, 1, 2, 4, 4)
    flow[..., 0, :2, :2] = torch.tensor([[2.0, 4.0], [6.0, 8.0]])
    visible = torch.ones(1, 1, 1, 4, 4)
    visible[..., 3, 3] = 0
    vectors, seen = known_motion("loss", torch.rand(1, 2, 5, 2, 2), context(flow, visible))
    assert vectors[0, 0].tolist() == [[2.5, 0], [0, 0]] and seen[0, 0].tolist() == [[1, 1], [1, 0]]


MEMORIES = [{}, {"lstm": "frozen", "cells": "all"}, {"lstm": "pretrained", "pretrain_iters": 1, "criterion": "norm"}]


def memories(options, shape):
    """FlowMemoryLoss and TemporalMemoryLoss with the same ConvLSTM."""
    losses = FlowMemoryLoss(**options), TemporalMemoryLoss(**options)
    for loss in losses:
        torch.manual_seed(3)
        loss.setup([shape], [shape])
    return losses


@pytest.mark.parametrize("options", MEMORIES)
def test_memory_of_what_stands_still_is_the_published_one_read_from_the_end(options):
    known = moving_right(by=0)
    known.visible[:] = 1
    ours, theirs = torch.rand(2, 1, 3, 4, 6, 10)
    along, published = memories(options, ours.shape)
    for _ in range(2):  # the first is pretraining, where there is some
        expected = published(ours.flip(1), theirs.flip(1))
        torch.testing.assert_close(along([ours], [theirs], known), expected)
        along.after_step(expected, 1)
        published.after_step(expected, 1)
    assert expected > 0


@pytest.mark.parametrize("options", MEMORIES)
def test_memory_goes_with_what_moves(options):
    """Layers of one pixel see a moving clip, along its flow, as they see its first frame standing still."""
    ours, theirs, known = picture(size=(6, 12)), picture(size=(6, 12)), moving_right(size=(6, 12))
    along, published = memories({**options, "kernel_size": 1}, ours.shape)
    cells = {}
    for loss, clips in ((along, [ours, theirs]), (published, [x[:, :1].expand_as(x) for x in (ours, theirs)])):
        loss.criterion = lambda s, t, loss=loss: cells.setdefault(loss, []).append((s, t)) or s.sum()
        loss.steps = 1  # past pretraining
        if loss is along:
            loss(*([clip] for clip in clips), known)
        else:
            loss(*clips)
    for a, b in zip(cells[along][-1], cells[published][-1], strict=True):
        torch.testing.assert_close(a[..., :8], b[..., :8])  # visible in all three frames
        assert (a[..., 10:] - b[..., 10:]).abs().max() > 1e-3  # what leaves is forgotten


def test_clips_whose_motion_is_not_known_are_compared_by_their_first_frame():
    known = moving_right()
    known.visible[:] = 0
    ours, theirs = torch.rand(2, 1, 3, 4, 6, 10)
    along, published = memories({}, ours.shape)
    torch.testing.assert_close(along([ours], [theirs], known), published(ours[:, :1], theirs[:, :1]))


def test_what_is_refused():
    with refuses("FlowConsistencyLoss", "StillClipDataset"):
        FlowConsistencyLoss()([picture()], context(None, None))
    with refuses("FlowConsistencyLoss", "(B, 3, C, H, W)"):
        FlowConsistencyLoss()([picture(frames=2)], moving_right())
    with refuses("FlowConsistencyLoss", "(4, 10)", "(6, 10)"):
        FlowConsistencyLoss()([picture(size=(4, 10))], moving_right())
    memory = memories({}, picture().shape)[0]
    with refuses("FlowMemoryLoss", "StillClipDataset"):
        memory([picture()], [picture()], context(None, None))
    with refuses("criterion", near="l2"):
        FlowDifferenceLoss("l3")


@pytest.mark.parametrize("teacher", ["output", "gt"])
def test_a_student_learns_from_rendered_clips(tmp_path, teacher):
    photo = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.GaussianBlur(photo, (0, 0), 2))
    dataset = StillClipDataset(dataroot_gt=str(tmp_path), scale=2, gt_size=32, clip_length=3, num_frame=3)
    batch = torch.utils.data.default_collate([dataset.sample(0, np.random.default_rng(seed)) for seed in range(2)])
    terms = {
        "same": {"type": "FlowDifferenceLoss", "student": "output", "teacher": teacher},
        "calm": {"type": "FlowConsistencyLoss"},
        "memory": {"type": "FlowMemoryLoss", "student": "output", "teacher": teacher, "downsample": 2},
    }
    task = make_task(Window(4, 3), Window(6, 3), {"pixel_opt": {"type": "L1Loss"}, "distill_opt": terms}, batch)
    output = task(batch, 1)
    known, sr = context(batch["flow"], batch["visible"]), output.sr.view_as(batch["gt"])
    torch.testing.assert_close(output.raw["l_calm"], FlowConsistencyLoss()([sr], known))
    if teacher == "gt":
        torch.testing.assert_close(output.raw["l_same"], FlowDifferenceLoss()([sr], [batch["gt"]], known))
    output.losses["l_memory"].backward(retain_graph=True)
    assert output.losses["l_memory"] > 0 and task.student.fuse.weight.grad.abs().max() > 0
    task.student.zero_grad()
    output.losses["l_same"].backward()
    assert output.losses["l_same"] > 0 and task.student.fuse.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in task.teacher.parameters())
