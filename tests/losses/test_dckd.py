"""DCKD's label consistency and contrast with an older copy of the student, by hand."""

from copy import deepcopy

import pytest
import torch

import kdsr_arch.losses.dckd_loss as dckd
from tests.helpers.messages import refuses
from tests.helpers.networks import Image, image_batch
from tests.helpers.options import make_task

CONTRAST = {"type": "HistoryContrastLoss", "every": 2, "negatives": 0}


def make(term, data):
    torch.manual_seed(1)
    values = {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"term": term}}
    return make_task(Image(4), Image(6), values, data).train()


def test_consistency_by_hand(monkeypatch):
    data = image_batch(3)
    task = make({"type": "LabelConsistencyLoss"}, data)
    turned = torch.tensor([[False, True, False], [True, True, False], [False] * 3, [True, False, True]])
    monkeypatch.setattr(dckd, "draw", lambda images, probability: turned.view(4, 3, 1, 1, 1))
    lq, teacher = data["lq"], task._teacher.net
    taught = [
        teacher(lq[:1].flip(-2).transpose(-1, -2)).transpose(-1, -2).flip(-2),
        1 - teacher((1 - lq[1:2]).flip(-2)).flip(-2),
        teacher(lq[2:].transpose(-1, -2)).transpose(-1, -2),
    ]
    wanted = (task.student(lq) - torch.cat(taught)).abs().mean()
    torch.testing.assert_close(task(data, 1).raw["l_term"], wanted)


def test_contrast_by_hand_and_the_copy_that_follows():
    data = image_batch(3)
    task = make(CONTRAST, data)
    old = deepcopy(task.student)
    lq, student, teacher = data["lq"], task.student, task._teacher.net
    expected = []
    for iteration in range(1, 6):
        with torch.no_grad():  # a step of any optimizer
            for p in student.parameters():
                p.add_(0.01 * iteration)
            if iteration in (3, 5):  # after the steps 2 and 4
                for mine, theirs in zip(old.parameters(), student.parameters(), strict=True):
                    mine.copy_(0.1 * mine + 0.9 * theirs)
        s = student(lq)
        expected.append((s - teacher(lq)).abs().mean() / ((s - old(lq)).abs().mean() + 1e-7))
        for _ in range(2):  # micro-batches of one iteration move the copy once
            torch.testing.assert_close(task(data, iteration).raw["l_term"], expected[-1], rtol=1e-4, atol=1e-6)


def test_the_copy_is_no_part_of_the_student_and_never_trains():
    data = image_batch(3)
    task = make({**CONTRAST, "negatives": 2}, data)
    task(data, 1)
    with torch.no_grad():
        task.student.head.weight.add_(0.1)
    task(data, 3).losses["l_term"].backward()
    assert task.student.head.weight.grad.abs().sum() > 0
    assert task.train_only_parameters() == [] and all(p.grad is None for p in task.terms.parameters())
    state = task.train_only_state()
    again = make({**CONTRAST, "negatives": 2}, data)
    again.load_train_only_state(state)
    kept, there = (t.terms["term"].loss.history.head.weight for t in (task, again))
    assert torch.equal(kept, there) and not torch.equal(kept, task.student.head.weight)


def test_the_period_grows():
    data = image_batch(1)
    task = make({**CONTRAST, "every": 10, "stretch": 100}, data)
    loss, moved = task.terms["term"].loss, []
    for iteration in range(1, 402):
        task.static_weights = {"iteration": torch.tensor(float(iteration))}
        before = float(loss.moved)
        loss._update(loss.history, task._context(data, iteration))
        if float(loss.moved) != before:
            moved.append(iteration - 1)
    assert moved == [*range(10, 101, 10), *range(120, 201, 20), *range(210, 401, 30)]


def test_noise_is_as_strong_as_it_says():
    loss = dckd.HistoryContrastLoss(noise=[12, 12], gray=0.5)
    torch.manual_seed(0)
    noise = (loss._noisy(torch.full((64, 3, 32, 32), 0.5)) - 0.5) * 255
    assert noise.std().item() == pytest.approx(12, rel=0.02)
    gray = ((noise - noise[:, :1]).abs().amax((1, 2, 3)) < 1e-3).float().mean().item()
    assert 0.3 < gray < 0.7


def test_what_is_refused():
    with refuses("HistoryContrastLoss", "every"):
        dckd.HistoryContrastLoss(every=0)
    for noise in (5, [1], [30, 1]):
        with refuses("HistoryContrastLoss", "noise [weakest, strongest]"):
            dckd.HistoryContrastLoss(noise=noise)
    with refuses("LabelConsistencyLoss", "probability"):
        dckd.LabelConsistencyLoss(probability=2)


class Noisy(Image):
    """With statistics and dropout, which are off in the older copy."""

    def __init__(self, num_feat=4):
        super().__init__(num_feat)
        self.norm, self.drop = torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5)

    def forward(self, x):
        return super().forward(self.drop(self.norm(x)))


def test_the_copy_is_no_part_of_the_training_mode():
    data = image_batch(3)
    torch.manual_seed(1)
    values = {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"term": CONTRAST}}
    task = make_task(Noisy(4), Image(6), values, data).train()
    history = task.terms["term"].loss.history
    statistics = history.norm.running_mean.clone()
    task(data, 1)
    assert task.student.training and not any(module.training for module in history.modules())
    assert torch.equal(history.norm.running_mean, statistics)
    assert not torch.equal(task.student.norm.running_mean, statistics)
