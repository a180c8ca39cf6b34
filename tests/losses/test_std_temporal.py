"""The temporal term of space-time distillation and its ConvLSTM."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdsr_arch.losses.temporal_memory_loss import ConvLSTM, TemporalMemoryLoss
from tests.helpers.messages import refuses

SHAPE = torch.Size((2, 3, 4, 6, 6))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def built(shape=SHAPE, **options):
    loss = TemporalMemoryLoss(**options)
    loss.setup([shape], [shape])
    return loss.train()


def step_loss(loss, student, teacher, optimizer=None, iteration=1):
    value = loss(student, teacher)
    if optimizer is not None:
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    loss.after_step(value.detach(), iteration)
    return value.item()


def test_parameter_count():
    assert sum(p.numel() for p in ConvLSTM(64, 64).parameters()) == 295168
    assert sum(p.numel() for p in ConvLSTM(8, 5, 1).parameters()) == 4 * 5 * (13 + 1)


def test_two_steps_by_hand():
    lstm = ConvLSTM(1, 1, kernel_size=1)
    with torch.no_grad():
        lstm.weight.copy_(torch.tensor([[0.5, 0.1], [-0.3, 0.2], [0.7, -0.4], [1.1, 0.6]]).view(4, 2, 1, 1))
        lstm.bias.copy_(torch.tensor([0.1, 0.2, -0.1, 0.3]))
    x1, x2 = 0.8, -0.5
    c1 = sigmoid(0.5 * x1 + 0.1) * math.tanh(1.1 * x1 + 0.3)
    h1 = sigmoid(0.7 * x1 - 0.1) * math.tanh(c1)
    i2, f2 = sigmoid(0.5 * x2 + 0.1 * h1 + 0.1), sigmoid(-0.3 * x2 + 0.2 * h1 + 0.2)
    c2 = f2 * c1 + i2 * math.tanh(1.1 * x2 + 0.6 * h1 + 0.3)
    h2 = sigmoid(0.7 * x2 - 0.4 * h1 - 0.1) * math.tanh(c2)
    cells, hiddens = lstm(torch.tensor([x1, x2]).view(1, 2, 1, 1, 1))
    assert [c.item() for c in cells] == pytest.approx([c1, c2], rel=1e-6)
    assert [h.item() for h in hiddens] == pytest.approx([h1, h2], rel=1e-6)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_equals_one_convolution_over_input_and_state(padding):
    lstm = ConvLSTM(3, 4, padding=padding)
    clip = torch.randn(2, 4, 3, 7, 5)
    h = c = torch.zeros(2, 4, 7, 5)
    for x in clip.unbind(1):
        joined = F.pad(torch.cat([x, h], 1), (1, 1, 1, 1), mode="constant" if padding == "zeros" else "replicate")
        i, f, o, g = F.conv2d(joined, lstm.weight, lstm.bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    cells, hiddens = lstm(clip)
    torch.testing.assert_close(cells[-1], c, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hiddens[-1], h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["trained", "frozen"])
def test_value_is_the_distance_of_the_last_cells(mode):
    loss = built(lstm=mode)
    student, teacher = torch.randn(SHAPE), torch.randn(SHAPE)
    cells = [loss.lstm(x)[0] for x in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), F.mse_loss(cells[0][-1], cells[1][-1]), rtol=1e-4, atol=1e-7)
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    unsquared = built(lstm=mode, criterion="norm")
    unsquared.load_state_dict(loss.state_dict())
    roots = (cells[0][-1] - cells[1][-1]).square().mean((1, 2, 3)).sqrt()  # of each clip
    torch.testing.assert_close(unsquared(student, teacher), roots.mean(), rtol=1e-4, atol=1e-7)
    loss.cells = "all"
    expected = torch.stack([F.mse_loss(s, t) for s, t in zip(*cells, strict=True)]).mean()
    torch.testing.assert_close(loss(student, teacher), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"lstm": "frozen"}, {"normalize": "teacher_rms", "padding": "replicate"}])
def test_gradients_reach_student_and_trained_lstm_never_the_teacher(options):
    loss = built(**options)
    student, teacher = torch.randn(SHAPE).requires_grad_(), torch.randn(SHAPE).requires_grad_()
    loss(student, teacher).backward()
    assert all(student.grad[:, t].abs().sum() > 0 for t in range(3)) and teacher.grad is None
    trained = options.get("lstm") != "frozen"
    assert all((p.grad is not None) == trained for p in loss.lstm.parameters())


def test_trained_lstm_is_fixed_for_good_under_the_threshold():
    loss = built(threshold=0.5)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    student, teacher = torch.randn(SHAPE).requires_grad_(), torch.randn(SHAPE)
    for iteration in range(1, 17):
        loss.after_step(torch.tensor(0.6), iteration)
    assert not loss.fixed
    resumed = {24: built(threshold=0.5), 40: built(threshold=0.5)}
    for iteration in range(17, 49):  # one value under the threshold is enough, a resume in between no harm
        loss.after_step(torch.tensor(0.4 if iteration == 20 else 0.6), iteration)
        for start, again in resumed.items():
            if iteration == start:
                again.set_extra_state(loss.get_extra_state())
            if iteration > start:
                again.after_step(torch.tensor(0.6), iteration)
        assert loss.fixed == (iteration == 48)  # seen at 32, read at the next look
    assert all(again.fixed for again in resumed.values())
    weight = loss.lstm.weight.detach().clone()
    for iteration in range(49, 51):
        step_loss(loss, student, 100 * teacher, optimizer, iteration)
    assert loss.fixed and torch.equal(loss.lstm.weight, weight) and student.grad.abs().sum() > 0


def test_pretraining_learns_the_teacher_then_freezes_and_teaches():
    loss = built(lstm="pretrained", pretrain_iters=30, normalize="teacher_rms")
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    teacher = torch.randn(2, 1, 4, 6, 6).expand(SHAPE) * 5  # standing frames can be predicted
    student = torch.randn(SHAPE).requires_grad_()
    values = []
    for iteration in range(1, 31):
        assert not loss.reaches_student
        values.append(step_loss(loss, student, teacher, optimizer, iteration))
    assert student.grad is None and values[-1] < 0.7 * values[0]
    assert loss.reaches_student and loss.fixed
    weight, rms = loss.lstm.weight.detach().clone(), float(loss.rms)
    assert rms == pytest.approx(float(teacher.square().mean().sqrt()), rel=1e-5)
    for iteration in range(31, 34):
        step_loss(loss, student, teacher, optimizer, iteration)
    assert student.grad.abs().sum() > 0 and torch.equal(loss.lstm.weight, weight) and float(loss.rms) == rms


def test_state_goes_on_where_it_was():
    loss, other = (built(lstm="pretrained", pretrain_iters=3, normalize="teacher_rms") for _ in range(2))
    student, teacher = torch.randn(SHAPE), torch.randn(SHAPE)
    for iteration in (1, 2):
        step_loss(loss, student, teacher, None, iteration)
    other.load_state_dict(loss.state_dict())
    for iteration in (3, 4):
        assert step_loss(loss, student, teacher, None, iteration) == step_loss(other, student, teacher, None, iteration)
    assert other.fixed and other.steps == 4


def test_replicate_padding_keeps_a_flat_field_flat():
    flat = torch.ones(1, 3, 4, 6, 6)
    cells = built(padding="replicate").lstm(flat)[0]
    assert cells[-1].var(dim=(-1, -2)).max().item() == pytest.approx(0, abs=1e-12)
    assert built(padding="zeros").lstm(flat)[0][-1].var(dim=(-1, -2)).max().item() > 1e-6


@pytest.mark.parametrize(
    "options, names",
    [
        ({"lstm": "learned"}, ["learned", "trained", "frozen", "pretrained"]),
        ({"lstm": "pretrained"}, ["pretrain_iters", 0]),
        ({"pretrain_iters": 5}, ["lstm", 5]),
        ({"kernel_size": 2}, [2]),
        ({"padding": "zero"}, ["'zero'", "'zeros'"]),
        ({"hidden": 0}, [0]),
    ],
)
def test_impossible_options_are_refused(options, names):
    with refuses("TemporalMemoryLoss", *options, *names):
        TemporalMemoryLoss(**options)


def test_shapes_that_cannot_serve_are_refused():
    with refuses("TemporalMemoryLoss", "clip_length", 2, 1):
        built(torch.Size((1, 1, 4, 6, 6)), lstm="pretrained", pretrain_iters=5)
    with refuses("TemporalMemoryLoss", "(B, N, C, H, W)", "(1, 4, 6, 6)"):
        built(torch.Size((1, 4, 6, 6)))
