"""The distillation task: gradients, state, stages, balances, errors."""

import copy
import logging
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import kdsr_arch.losses.classic_loss
import kdsr_arch.losses.spatial_attention_loss
import kdsr_arch.losses.temporal_memory_loss  # noqa: F401
from kdsr_arch.distill import taps
from kdsr_arch.errors import ProgramFault
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.registry import LOSS_REGISTRY
from tests.helpers.messages import refuses
from tests.helpers.networks import Image, Recurrent, Window
from tests.helpers.options import make_task

TERMS = {
    "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": 0.1},
    "temporal": {"type": "TemporalMemoryLoss", "at": "f_sr", "loss_weight": 0.1, "downsample": 2},
    "hint": {"type": "FitNetLoss", "student": ["f_lr", "up.0"], "teacher": ["f_lr", "up.0"], "layer_weights": [1, 2]},
    "output": {"type": "L1Loss", "loss_weight": 0.5},
}
PIXEL = {"type": "CharbonnierLoss", "loss_weight": 1.0}


def batch(lq, gt):
    return {"lq": lq, "gt": gt}


def clips(count=2, length=3, num_frame=5, size=8, device="cpu"):
    frames = torch.rand(count, length + num_frame - 1, 3, size, size, device=device)
    return batch(frames, torch.rand(count, length, 3, 2 * size, 2 * size, device=device))


def make(terms=None, student=None, teacher=None, data=None, of_teacher=None, **options):
    data = data or clips()
    torch.manual_seed(1)
    opt = {"pixel_opt": dict(PIXEL), "distill_opt": copy.deepcopy(TERMS if terms is None else terms), **options}
    return make_task(student or Window(4, 3), teacher or Window(6, 5), opt, data, **(of_teacher or {})).train()


def optimizer(task):
    return torch.optim.Adam([*task.student.parameters(), *task.train_only_parameters()], 1e-3)


def train_step(task, optim, data, iteration):
    task.set_stage(iteration)
    optim.zero_grad()
    output = task(data, iteration)
    sum(output.losses.values()).backward()
    optim.step()
    task.after_step(output, iteration)
    return output


def norms(loss, params):
    grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None]).norm().item()


PRECISIONS = {
    "plain": ("", {}),
    "bf16": ("", {"amp": "bf16", "of_teacher": {"amp": "bf16"}}),
    "fp16": ("", {"amp": "fp16", "of_teacher": {"amp": "fp16"}}),
    "compiled": ("eager", {"compile": True, "of_teacher": {"compile": True}}),
    "compiled aot bf16": ("aot_eager", {"compile": True, "amp": "bf16"}),
}


def compile_by(monkeypatch, backend):
    torch._dynamo.reset()
    monkeypatch.setattr(taps, "compile_network", partial(taps.compile_network, backend=backend))


@pytest.mark.parametrize(("backend", "options"), PRECISIONS.values(), ids=PRECISIONS)
def test_every_term_teaches_the_student_and_never_the_teacher(backend, options, monkeypatch, device):
    compile_by(monkeypatch, backend)
    task = make(data=clips(device=device), **options)
    teacher = task._teacher.net
    before = copy.deepcopy(teacher.state_dict())
    params = list(task.student.parameters())
    for iteration in (1, 2):
        output = task(clips(device=device), iteration)
        assert set(output.losses) == {"l_pix", "l_spatial", "l_temporal", "l_hint", "l_output"}
        for name, loss in output.losses.items():
            assert loss.shape == () and loss.dtype == torch.float32 and norms(loss, params) > 0, name
        sum(output.losses.values()).backward()
    assert output.sr.shape == (2, 3, 3, 16, 16) and output.sr.dtype == torch.float32
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    after = teacher.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before), "weights and batch-norm statistics stay"
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.train_only_parameters())


def test_values_are_those_of_the_definition():
    task, data = make(), clips()
    lq, gt = data["lq"], data["gt"]
    task.student.eval()  # batch norm then does not care how frames are batched
    output = task(data, 1)
    student, teacher = task.student, task._teacher.net
    kept = {}
    student.up.register_forward_hook(lambda m, i, o: kept.update(s=o.detach().clone()))
    teacher.up.register_forward_hook(lambda m, i, o: kept.update(t=o.detach().clone()))
    values, outs = [], []
    for n in range(3):
        s, t = student(lq[:, n + 1 : n + 4]), teacher(lq[:, n : n + 5])
        outs.append((s, t))
        values.append(F.mse_loss(kept["s"].square().sum(1), kept["t"].square().sum(1)))
    torch.testing.assert_close(output.raw["l_spatial"], torch.stack(values).mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.losses["l_spatial"], 0.1 * output.raw["l_spatial"])
    s, t = (torch.stack(o, 1) for o in zip(*outs, strict=True))
    torch.testing.assert_close(output.sr, s, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.raw["l_output"], F.l1_loss(s, t), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.raw["l_pix"], ((s - gt).square() + 1e-12).sqrt().mean(), rtol=1e-4, atol=1e-6)


def test_compiled_gives_the_losses_of_the_bare_networks(monkeypatch, device):
    compile_by(monkeypatch, "aot_eager")
    data = clips(device=device)
    bare, compiled = make(data=data), make(data=data, compile=True, of_teacher={"compile": True})
    for iteration in (1, 2):
        a, b = bare(data, iteration), compiled(data, iteration)
        for name in a.raw:
            torch.testing.assert_close(a.raw[name], b.raw[name], rtol=1e-4, atol=1e-5)
    assert compiled.measure(b, 2).keys() == bare.measure(a, 2).keys()
    assert not any("_orig_mod" in k for k in compiled.state_dict())


def test_the_student_stays_pure_and_the_teacher_outside():
    student, teacher = Window(4, 3), Window(6, 5)
    keys, stats = list(student.state_dict()), copy.deepcopy(student.state_dict())
    task = make(student=student, teacher=teacher)
    assert list(student.state_dict()) == keys
    assert all(torch.equal(v, stats[k]) for k, v in student.state_dict().items()), "the dry run leaves buffers alone"
    ours = {id(p) for p in task.parameters()}
    assert not ours & {id(p) for p in teacher.parameters()} and teacher not in list(task.modules())
    assert not any(k.startswith(("teacher", "_teacher")) for k in task.state_dict())
    task.double().train()
    assert next(teacher.parameters()).dtype == torch.float64, "the teacher goes where the task goes"
    assert not teacher.training
    assert {k.split(".")[0] for k in task.train_only_state()} == set(TERMS)


def test_dry_run_does_not_move_the_random_state_but_for_new_parameters():
    data = clips()
    torch.manual_seed(1)
    student, teacher = Window(4, 3), Window(6, 5)
    before = torch.random.get_rng_state()
    make_task(student, teacher, {"distill_opt": {"output": TERMS["output"]}}, data)
    assert torch.equal(before, torch.random.get_rng_state())


def test_adapters_come_from_the_dry_run():
    task = make()
    reports = {r.term: r for r in task.reports}
    assert reports["spatial"].adapter == "-"  # channels are summed away
    assert reports["temporal"].adapter == "conv1x1 4->6"
    assert reports["hint"].adapter == "conv1x1 16->24" and reports["hint"].weight == "1 x 2"
    table = task.table()
    assert "conv1x1 4->6" in table and "3x4x16x16" in table and "3x6x16x16" in table and "SpatialAttentionLoss" in table
    assert len({len(line) for line in table.splitlines()[:2]}) == 1
    assert len(task.train_only_parameters()) == 2 * 3 + 2  # three adapters, one ConvLSTM


def test_sizes_are_aligned():
    terms = {"hint": {"type": "FitNetLoss", "student": "f_lr", "teacher": "f_sr"}}
    task = make(terms)
    assert task.reports[0].adapter == "conv1x1 4->6 + resize"
    assert norms(task(clips(), 1).losses["l_hint"], list(task.student.parameters())) > 0


@pytest.mark.parametrize("student, teacher", [(Window, Recurrent), (Recurrent, Window)])
def test_window_and_recurrent_networks_teach_each_other(student, teacher):
    terms = {k: TERMS[k] for k in ("spatial", "temporal", "output")}
    task = make(terms, student=student(4), teacher=teacher(4), data=clips(num_frame=3))
    output = task(clips(num_frame=3), 1)
    for name, loss in output.losses.items():
        assert norms(loss, list(task.student.parameters())) > 0, name


def test_images_and_single_frames():
    data = batch(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16))
    task = make(
        {"spatial": TERMS["spatial"], "output": TERMS["output"]},
        student=Image(3),
        teacher=Image(5),
        data=data,
    )
    assert task(data, 1).sr.shape == (2, 3, 16, 16)
    data = clips(length=1)
    still = batch(data["lq"], data["gt"][:, 0])
    one = make(data=still)
    torch.testing.assert_close(one(still, 1).raw["l_pix"], one(data, 1).raw["l_pix"])


def test_an_image_student_learns_from_a_video_teacher():
    task = make({"output": TERMS["output"]}, student=Image(3))
    assert task(clips(), 1).sr.shape == (2, 3, 3, 16, 16)


@pytest.mark.parametrize("colors", [("y", "rgb"), ("rgb", "y")])
def test_outputs_of_other_colors_are_compared_in_luma(colors):
    student, teacher = Window(4, 3, colors[0]), Window(4, 5, colors[1])
    task = make({"output": {"type": "L1Loss"}}, student=student, teacher=teacher)
    task.student.eval()
    data = clips()
    output = task(data, 1)
    teacher = task._teacher._runner.forward(data["lq"], 3)
    s, t = (rgb_to_y(x) if x.shape[-3] == 3 else x for x in (output.sr, teacher))
    torch.testing.assert_close(output.raw["l_output"], F.l1_loss(s, t))
    if colors[0] == "y":
        torch.testing.assert_close(output.raw["l_pix"], ((s - rgb_to_y(data["gt"])).square() + 1e-12).sqrt().mean())


def test_teacher_runs_once_a_step_and_only_when_a_term_needs_it():
    two_iterations = {"loss_weight": {"schedule": [[2, 1.0], [3, 0]]}}
    terms = {name: {**TERMS[name], **two_iterations} for name in ("output", "spatial")}
    task, calls = make(terms), []
    task._teacher.net.register_forward_hook(lambda *a: calls.append(1))
    for iteration in (1, 2, 3, 4):
        task(clips(), iteration)
    assert len(calls) == 2


def test_schedules_switch_terms():
    terms = {
        "output": {"type": "L1Loss", "loss_weight": {"schedule": [[2, 0], [3, 1.0], [4, 1.0], [5, 0]]}},
        "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": {"schedule": [[2, 0], [4, 1.0]]}},
    }
    task = make(terms)
    active = {i: task(clips(), i) for i in (1, 2, 3, 4, 5)}
    assert ["l_output" in active[i].losses for i in active] == [False, False, True, True, False]
    assert [active[i].weights.get("l_spatial") for i in active] == [None, None, 0.5, 1.0, 1.0]


def test_balance_holds_the_gradient_ratio():
    terms = {
        "spatial": {**TERMS["spatial"], "loss_weight": {"balance": 0.3, "measurements": 5}},
        "output": {"type": "L1Loss", "loss_weight": {"balance": 2.0}},
    }
    task = make(terms)
    params, data = list(task.student.parameters()), clips()
    output = task(data, 1)  # right from the first step
    pixel = norms(output.losses["l_pix"], params)
    assert norms(output.losses["l_spatial"], params) == pytest.approx(0.3 * pixel, rel=1e-3)
    assert norms(output.losses["l_output"], params) == pytest.approx(2 * pixel, rel=1e-3)
    optim = optimizer(task)
    for iteration in range(1, 40):
        optim.zero_grad()
        output = task(data, iteration)
        measured = task.measure(output, iteration)
        sum(output.losses.values()).backward()
        optim.step()
    assert measured["spatial"] == pytest.approx(0.3, rel=0.3) and measured["output"] == pytest.approx(2.0, rel=0.3)


def test_measured_ratios_are_those_of_the_gradients():
    task = make()
    output = task(clips(), 1)
    params = list(task.student.parameters())
    measured = task.measure(output, 1)
    pixel = norms(output.losses["l_pix"], params)
    for name, ratio in measured.items():
        assert ratio == pytest.approx(norms(output.losses[f"l_{name}"], params) / pixel, rel=1e-3), name
    assert all(p.grad is None for p in params)


def test_downsample_averages_both_taps_and_keeps_the_count_of_frames():
    plain, coarse = make({"spatial": TERMS["spatial"]}), make({"spatial": {**TERMS["spatial"], "downsample": 4}})
    data, seen = clips(), []
    for task in (plain, coarse):
        task.terms["spatial"].loss.register_forward_hook(lambda module, args, out: seen.append(args))
        task(data, 1)
    for whole, mean in zip(*seen, strict=True):
        torch.testing.assert_close(mean, torch.nn.functional.avg_pool2d(whole, 4))
    with refuses("train.distill_opt.spatial.downsample", 17, "(3, 4, 16, 16)"):
        make({"spatial": {**TERMS["spatial"], "downsample": 17}})


def test_an_inert_term_is_named_once(caplog):
    task = make({"weak": {**TERMS["spatial"], "loss_weight": 1e-9}, "output": TERMS["output"]})
    with caplog.at_level(logging.WARNING):
        for iteration in (1, 2):
            task.measure(task(clips(), iteration), iteration)
    assert [("weak" in r.message, "inert" in r.message) for r in caplog.records] == [(True, True)]


def test_a_balanced_term_is_not_inert_by_an_old_measurement(caplog, monkeypatch):
    task = make({"spatial": {**TERMS["spatial"], "loss_weight": {"balance": 1.0}}})
    norms_now = {"l_pix": 1.0, "l_spatial": 1e6}
    monkeypatch.setattr(task, "_norms", lambda *_: dict(norms_now))
    task.measure(task(clips(), 1), 1)
    norms_now["l_spatial"] = 1.0  # a million times less than what the weight is of
    assert task.measure(task(clips(), 2), 2)["spatial"] < 1e-3 and not caplog.records
    norms_now["l_spatial"] = 0.0
    task.measure(task(clips(), 3), 3)
    (said,) = caplog.messages
    assert "spatial" in said and "taps" in said and "balance" not in said


def test_state_is_restored_exactly():
    terms = {
        **TERMS,
        "temporal": {
            **TERMS["temporal"],
            "lstm": "pretrained",
            "pretrain_iters": 3,
            "normalize": "teacher_rms",
            "loss_weight": {"balance": 0.2},
        },
    }
    batches = [clips() for _ in range(6)]

    def run(task, optim, numbers):
        for i in numbers:
            output = train_step(task, optim, batches[i - 1], i)
        return {k: v.item() for k, v in output.losses.items()}

    whole = make(terms)
    first = optimizer(whole)
    run(whole, first, (1, 2))
    state = copy.deepcopy((whole.student.state_dict(), whole.train_only_state(), first.state_dict()))
    resumed = make(terms)
    second = optimizer(resumed)
    resumed.student.load_state_dict(state[0])
    resumed.load_train_only_state(state[1])
    second.load_state_dict(state[2])
    assert run(whole, first, (3, 4, 5, 6)) == run(resumed, second, (3, 4, 5, 6))
    a, b = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_foreign_state_is_refused():
    with pytest.raises(RuntimeError, match="temporal.loss.rms"):
        make().load_train_only_state(make({"output": TERMS["output"]}).train_only_state())


def test_stages_choose_terms_and_freeze():
    stages = [
        {"iters": 2, "terms": ["spatial", "pixel"], "freeze": ["body", "last"]},
        {"iters": 2, "terms": ["temporal"], "freeze": ["temporal"]},
        {"iters": 1},
    ]
    task = make(stages=stages)
    optim = optimizer(task)
    names = {n: p for n, p in task.named_parameters() if "spatial" not in n}
    for iteration, losses, frozen in (
        (1, {"l_spatial", "l_pix"}, ("student.body", "student.last")),
        (3, {"l_temporal"}, ("terms.temporal",)),
        (9, {"l_pix", *(f"l_{n}" for n in TERMS)}, ()),
    ):
        before = {n: p.detach().clone() for n, p in names.items()}
        output = train_step(task, optim, clips(), iteration)
        assert set(output.losses) == losses
        for name, param in names.items():
            is_frozen = name.startswith(frozen) if frozen else False
            assert param.requires_grad != is_frozen
            if is_frozen:
                assert torch.equal(param, before[name]), name
    task.set_stage(1)
    task.set_stage(9)
    assert all(p.requires_grad for p in names.values())


def test_what_two_modules_share_is_frozen_with_either():
    student = Window(4, 3)
    student.body.append(torch.nn.Conv2d(4, 4, 3, padding=1))
    student.body[3].weight, student.extra = student.body[0].weight, torch.nn.Sequential(student.body[1])
    task = make({}, student, stages=[{"iters": 2, "freeze": ["body.3", "extra"]}, {"iters": 2}])
    shared = (student.body[0].weight, student.body[1].weight, student.body[1].running_mean)
    before = [value.detach().clone() for value in shared]
    optim = optimizer(task)
    train_step(task, optim, clips(), 1)
    assert all(torch.equal(a, b) for a, b in zip(before, shared, strict=True)) and student.body[0].bias.grad is not None
    train_step(task, optim, clips(), 3)
    assert not any(torch.equal(a, b) for a, b in zip(before, shared, strict=True))


def test_without_teacher_the_student_learns_alone():
    student = Window(4, 3)
    task = make_task(student, None, {"pixel_opt": PIXEL}, clips(num_frame=3))
    output = task(clips(num_frame=3), 1)
    assert set(output.losses) == {"l_pix"} and task.measure(output, 1) == {} and task.train_only_parameters() == []
    with refuses("train.distill_opt.spatial", "SpatialAttentionLoss", "network_t"):
        make_task(student, None, {"distill_opt": TERMS}, clips(num_frame=3))


@pytest.mark.parametrize(
    "term, names",
    [
        ({"type": "L1Los"}, [".type", "'L1Los'", "'L1Loss'"]),
        ({"type": "SpatialAttentionLoss", "at": "f_sr", "mapp": "sum_abs"}, [".mapp", "SpatialAttentionLoss", "'map'"]),
        ({"type": "SpatialAttentionLoss", "at": "bdoy"}, [".student", "Window", "'bdoy'", "'body'"]),
        ({"type": "SpatialAttentionLoss", "student": "f_sr"}, ["`teacher`"]),
        ({"type": "FitNetLoss", "at": ["up", "body"], "layer_weights": [0, 0]}, [".layer_weights", 0]),
        ({"type": "L1Loss", "reduction": "none"}, ["L1Loss", "(3, 3, 16, 16)"]),
        ({"type": "FitNetLoss", "at": "up", "adapter": "none"}, ["adapter: none"]),
        ({"type": "MSELoss", "reduction": "most"}, ["MSELoss", "most"]),
    ],
)
def test_impossible_terms_are_refused_before_training(term, names):
    with refuses("train.distill_opt.t", *names):
        make({"t": term})


@pytest.mark.parametrize("reduction, names", [("none", ["(3, 3, 16, 16)"]), ("most", ["most"])])
def test_an_impossible_pixel_loss_is_refused_before_training(reduction, names):
    with refuses("train.pixel_opt", "MSELoss", *names):
        make({}, data=clips(2, 3), pixel_opt={"type": "MSELoss", "reduction": reduction})


def test_a_pixel_loss_of_two_parts_as_basicsr_has_them_trains():
    class Halves(torch.nn.Module):
        def forward(self, sr, gt):
            return (sr - gt).abs().mean() / 2, None

    if "Halves" not in LOSS_REGISTRY:
        LOSS_REGISTRY.register(Halves)
    task, data = make({}, pixel_opt={"type": "Halves"}), clips()
    whole = make({}, pixel_opt={"type": "L1Loss"})(data, 1)
    torch.testing.assert_close(2 * task(data, 1).total, whole.total)


def test_a_network_whose_backward_pass_fails_is_refused_before_training():
    class Spoils(Image):
        def forward(self, x):
            features = self.head(x).sigmoid()
            restored = super().forward(x) + features.mean()
            features += 1  # what the gradient of sigmoid needs
            return restored

    student = Spoils()
    student.last.bias.grad = torch.ones(3)
    data = batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16))
    with refuses("Spoils", "inplace", kind=ProgramFault):
        make({}, student=student, data=data)
    assert student.last.bias.grad.tolist() == [1, 1, 1] and student.last.weight.grad is None


def test_trying_a_stage_leaves_no_trace():
    temporal = {**TERMS["temporal"], "normalize": "teacher_rms", "loss_weight": {"balance": 0.1}}
    task = make({**TERMS, "temporal": temporal}, stages=[{"iters": 2, "freeze": ["last"]}, {"iters": 9}], total_iter=11)
    task.set_stage(1)
    data, before, generator = clips(), copy.deepcopy(task.state_dict()), torch.get_rng_state()
    task.try_stage(data, 11)
    for key, value in task.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(torch.get_rng_state(), generator)
    assert not task.student.last.weight.requires_grad and task.student.last.weight.grad is None


def test_a_network_of_another_precision_trains_in_it():
    student, data = Image().double(), batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16))
    value = make({}, student=student, data=data)(data, 1).total
    expected = (student(data["lq"].double()) - data["gt"]).abs().mean()
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0.0)


def test_images_in_another_precision_train_as_float32():
    data = clips()
    wide = {key: value.double() for key, value in data.items()}
    task = make(data=wide)
    losses = [task(given, 1).losses for given in (wide, data)]
    assert losses[0] == losses[1]


def test_a_layer_of_weight_0_is_not_computed(monkeypatch):
    taps = {"student": ["f_lr", "up.0"], "teacher": ["f_lr", "up.0"]}
    whole = make({"t": {"type": "FitNetLoss", **taps, "layer_weights": [3, 0]}})
    alone = make({"t": {"type": "FitNetLoss", "student": "f_lr", "teacher": "f_lr", "layer_weights": [3]}})
    alone.load_train_only_state({k: v for k, v in whole.train_only_state().items() if "adapters.1" not in k})
    seen = []
    whole.terms["t"].loss.register_forward_hook(lambda *_: seen.append(1))
    data = clips()
    assert whole(data, 1).losses["l_t"] == alone(data, 1).losses["l_t"] > 0
    assert len(seen) == 1


def test_taps_that_never_fire_and_wrong_sizes_are_refused():
    data = batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16))
    idle = {"t": {"type": "FitNetLoss", "student": "idle", "teacher": "head"}}
    with refuses("'idle'", "Image", "'head'"):
        make(idle, student=Image(), teacher=Image(), data=data)
    with refuses("(1, 3, 3, 16, 16)", "(1, 3, 3, 24, 24)", "scale", "gt_size", "clip_length"):
        make({"t": {"type": "L1Loss"}}, data=batch(clips()["lq"], torch.rand(2, 3, 3, 24, 24)))
    with refuses("(1, 1, 16, 16)", "channels"):  # the student's colors would be learned from nothing
        make({}, student=Image(), data=batch(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 16, 16)))


def test_a_loss_without_gradient_is_refused():
    class DetachedLoss(torch.nn.Module):
        def forward(self, student, teacher):
            return torch.tensor((student - teacher).detach().square().mean().item())

    if "DetachedLoss" not in LOSS_REGISTRY:
        LOSS_REGISTRY.register(DetachedLoss)
    with refuses("train.distill_opt.t", "DetachedLoss", "gradient"):
        make({"t": {"type": "DetachedLoss", "at": "f_sr"}}, teacher=Window(4, 5))


def test_a_loss_that_changes_what_it_is_given_is_refused(monkeypatch):
    class CenteringLoss(torch.nn.Module):
        def forward(self, student, teacher):
            teacher -= teacher.mean()
            return (student - teacher).abs().mean()

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "CenteringLoss", CenteringLoss)
    for tapped in ({}, {"student": "output", "teacher": "gt"}, {"at": "f_sr", "adapter": {"type": "conv1x1"}}):
        with refuses("train.distill_opt.t", "CenteringLoss", "in place"):
            make({"t": {"type": "CenteringLoss", **tapped}})
    with refuses("train.pixel_opt", "CenteringLoss", "in place"):
        make({}, pixel_opt={"type": "CenteringLoss"})


def test_a_student_without_parameters_is_refused():
    class Still(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("factor", torch.ones(1))

        def forward(self, x):
            return F.interpolate(x * self.factor, scale_factor=2)

    data = batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16))
    with refuses("no parameter to train", "Still"):
        make({}, student=Still(), data=data)
    with refuses("no parameter to train", "requires_grad_"):
        make({}, student=Image().requires_grad_(False), data=data)


@pytest.mark.parametrize("name", ["train", "keys", "type", "forward", "items", "values", "pixel", "a-b"])
def test_a_name_that_cannot_be_a_terms_is_refused(name):
    with refuses("train.distill_opt", f"'{name}'"):
        make({name: {"type": "L1Loss"}})


@pytest.mark.parametrize("kind", ["FitNetLoss", "VIDLoss"])
def test_double_precision(kind):
    """Adapters and what losses have of their own follow the student's precision."""
    data = {key: value.double() for key, value in clips().items()}
    task = make({"it": {"type": kind, "at": "f_sr"}}, Window(4, 3).double(), Window(6, 5).double(), data)
    task(data, 1).total.backward()
    assert {p.grad.dtype for p in task.train_only_parameters()} == {torch.float64}
