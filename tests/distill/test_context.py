"""Terms that run the networks themselves: through the task, with stages, a stored teacher, and a graph's clock."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdsr_arch.archs.channel_split_arch import ChannelSplit
from kdsr_arch.distill import taps
from kdsr_arch.distill.context import CLOCK
from kdsr_arch.distill.teachers import Ensemble
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.registry import LOSS_REGISTRY, register_all
from tests.helpers.messages import refuses
from tests.helpers.networks import SMALL, Image, Window, image_batch
from tests.helpers.options import make_task

register_all()
PIXEL = {"type": "L1Loss"}
DUKD = {"type": "DUKDLoss", "zoom_in": 2}
ECO = {"type": "ECOLoss", "iters": 10}


def make(terms, data=None, teacher=None, student=None, of_teacher=None, **options):
    torch.manual_seed(1)
    values, networks = {"pixel_opt": PIXEL, "distill_opt": terms, **options}, (student or Image(4), teacher or Image(8))
    return make_task(*networks, values, data or image_batch(), **(of_teacher or {})).train()


@pytest.mark.parametrize("term", [DUKD, ECO], ids=["DUKD", "ECO"])
@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_the_student_learns_and_the_teacher_does_not(term, amp):
    task = make({"term": term}, amp=amp)
    output = task(image_batch(), 3)
    output.losses["l_term"].backward()
    assert output.losses["l_term"].dtype == torch.float32
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for n, p in task.student.named_parameters() if "idle" not in n
    )
    assert all(p.grad is None for p in task._teacher.net.parameters())
    assert "| -" in task.table()


def test_a_balance_and_a_measurement_see_the_term():
    task = make({"zoom": {**DUKD, "loss_weight": {"balance": 0.5}}})
    assert task.measure(task(image_batch(), 1), 1)["zoom"] > 0


def test_making_a_task_draws_nothing_at_random():
    torch.manual_seed(5)
    task = make_task(Image(4), Image(8), {"pixel_opt": PIXEL, "distill_opt": {"zoom": DUKD}}, image_batch())
    state = torch.get_rng_state()
    torch.manual_seed(5)
    make_task(Image(4), Image(8), {"pixel_opt": PIXEL}, image_batch())
    assert torch.equal(torch.get_rng_state(), state) and task.reports[0].student == "-"


def test_without_a_loss_on_it_the_batch_is_not_restored():
    task = make({"eco": ECO}, stages=[{"iters": 5, "terms": ["eco"]}, {"iters": 5, "terms": ["pixel"]}])
    calls = []
    task.student.register_forward_hook(lambda *_: calls.append(1))
    first, later = task(image_batch(), 1), task(image_batch(), 6)
    assert first.sr is None and set(first.losses) == {"l_eco"} and task.measure(first, 1) == {}
    assert later.sr is not None and set(later.losses) == {"l_pix"} and len(calls) == 2


def test_a_recorded_step_reads_the_iteration_anew():
    data, task = image_batch(), make({"eco": ECO})
    assert task.known_weights(4) == {"l_pix": 1.0, "l_eco": 1.0, CLOCK: 4.0}
    assert CLOCK not in make({"output": {"type": "L1Loss"}}).known_weights(4)
    plain = task(data, 4).raw["l_eco"]
    task.static_weights = {CLOCK: torch.tensor(4.0)}
    assert torch.equal(task(data, 1).raw["l_eco"], plain)
    assert not torch.equal(make({"eco": ECO})(data, 1).raw["l_eco"], plain)


class NothingRead(TorchDispatchMode):
    """Fails where a value is read on the CPU, or a shape depends on one, which a CUDA graph cannot record."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique"), name
        return func(*args, **(kwargs or {}))


TERMS = {
    "DUKD": DUKD,
    "ECO": ECO,
    "CrossKD": {"type": "CrossKDLoss", "at": "f_lr", "target": "teacher"},
    "consistency": {"type": "LabelConsistencyLoss"},
    "history": {"type": "HistoryContrastLoss", "every": 2},
    "FFT": {"type": "FFTLoss", "student": "output", "teacher": "gt"},
    "wavelets": {"type": "WaveletLoss"},
    "MTKD": {"type": "MTKDLoss", "student": "output", "teacher": ["t", "t2"], "levels": 2, "num_feat": 4,
             "depths": [1], "num_heads": 1, "window_size": 4},
    "CSD": {"type": "CSDLoss", "contrast": 1, "teach": 0},
    "MiPKD": {"type": "MiPKDLoss", "at": ["head", "up"]},
}  # fmt: skip


def make_one(name, **options):
    """A task with one of TERMS, and the networks that it asks for: two teachers, or a student that is a part."""
    torch.manual_seed(2)
    teacher = Ensemble({"t": Image(8), "t2": Image(6)}, 2) if name == "MTKD" else None
    student = ChannelSplit(SMALL, {"num_feat": 4}, scale=2) if name == "CSD" else None
    return make({"term": TERMS[name]}, teacher=teacher, student=student, **options)


@pytest.mark.parametrize("name", TERMS)
def test_a_step_reads_nothing(name):
    task, data = make_one(name), image_batch()
    with pytest.raises(AssertionError), NothingRead():
        torch.rand(1).item()
    with NothingRead():
        sum(task(data, 3).losses.values()).backward()
    assert next(task.student.parameters()).grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_a_compiled_student_learns_the_same(name, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(taps, "compile_network", partial(taps.compile_network, backend="eager"))
    data, values = image_batch(), []
    for compiled in (False, True):
        task = make_one(name, compile=compiled, of_teacher={"compile": compiled})
        torch.manual_seed(3)
        values.append(task(data, 3).raw["l_term"])
    torch.testing.assert_close(*values)


def test_what_is_refused():
    with refuses("train.distill_opt.zoom", "network_t", "teacher_cache"):
        make_task(Image(4), None, {"pixel_opt": PIXEL, "distill_opt": {"zoom": DUKD}}, image_batch())
    with refuses("train.distill_opt.zoom", "`student`"):
        make({"zoom": {**DUKD, "student": "output"}})
    with refuses("train.distill_opt.zoom", "`at`"):
        make({"zoom": {**DUKD, "at": "f_lr"}})
    with refuses("train.distill_opt.eco", "`student`"):
        make({"eco": {**ECO, "student": "output"}})
    with refuses("layer_weights"):
        make({"eco": {**ECO, "teacher": ["output"], "layer_weights": [1]}})
    clips = {"lq": torch.rand(1, 5, 3, 8, 8), "gt": torch.rand(1, 3, 3, 16, 16)}
    with refuses("train.distill_opt.zoom", "networks of images"):
        make({"zoom": DUKD}, clips, Window(6, 3), Window(4, 3))


def test_a_term_may_tap_both_sides_and_run_the_networks(monkeypatch):
    class Both(DistillLoss):
        context = True

        def forward(self, students, teachers, context):
            distances = [(s.mean() - t.mean()).abs() for s, t in zip(students, teachers, strict=True)]
            return sum(distances) + context.student(context.lq).mean()

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "Both", Both)
    task = make({"both": {"type": "Both", "student": ["output", "f_lr"], "teacher": ["output", "f_lr"]}})
    assert task(image_batch(), 1).losses["l_both"].requires_grad and len(task.reports) == 2
