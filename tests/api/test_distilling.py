"""Distillation without option files: the same losses as a training's, on any networks and in any loop."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import kdsr
from kdsr_arch.losses.fakd_loss import FAKDLoss
from kdsr_arch.losses.spatial_attention_loss import SpatialAttentionLoss
from kdsr_arch.ops.bicubic import upsample_bicubic
from tests.helpers.messages import refuses
from tests.helpers.networks import Window
from tests.helpers.options import make_options
from tests.helpers.trainers import make_trainer, train

TERMS = {"features": {"type": "FAKDLoss", "at": "up", "loss_weight": {"balance": 0.1}}, "output": {"type": "MSELoss"}}


class Plain(nn.Module):
    """A network that declares nothing of itself."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.up(x))


def pairs(count: int = 4, batch: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    lq = [torch.rand(batch, 3, 8, 8) for _ in range(count)]
    return [(x, upsample_bicubic(x, 2)) for x in lq]


def weights(net: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def test_a_loop_of_ones_own_equals_the_trainers() -> None:
    values = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
    terms = {"features": {"type": "SRKDLoss", "at": "f_lr"}, "output": {"type": "L1Loss"}}
    data = [{"lq": lq, "gt": gt} for lq, gt in pairs()]
    options = {
        "network_g": values, "scale": 2,
        "train": {"total_iter": 4, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
    }  # fmt: skip
    alone = make_trainer(options, data[0])
    start, teacher = alone.model.student, Plain(8)
    assert make_options(options).scale == 2
    teacher.traits = kdsr.Traits("image", 2, taps={"f_lr": "up.0"})
    other = type(start)(num_feat=4, num_block=1, upscale=2)
    other.load_state_dict(start.state_dict())
    train(alone, data)
    task = kdsr.make_task(other, None, {}, data[0])
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-3)
    for iteration, batch in enumerate(data, 1):
        output = task(batch, iteration)
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
    assert torch.equal(weights(other), weights(start))
    taught = kdsr.make_task(other, teacher, terms, (data[0]["lq"], data[0]["gt"]))
    assert set(taught(data[0], 1).losses) == {"l_pix", "l_features", "l_output"}


def test_one_call_equals_a_loop_of_ones_own() -> None:
    data, teacher = pairs(), Plain(8)
    torch.manual_seed(1)
    first, second = Plain(), Plain()
    second.load_state_dict(first.state_dict())
    terms = {"output": {"type": "L1Loss"}, "features": {"type": "SPLoss", "at": "up", "loss_weight": 2.0}}
    result = kdsr.distill(first, teacher, terms, data, iterations=6, device="cpu", report_every=3)
    task = kdsr.make_task(second, teacher, terms, data[0])
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-3)
    losses = []
    for iteration, (lq, gt) in enumerate([*data, *data[:2]], 1):
        output = task({"lq": lq, "gt": gt}, iteration)
        losses.append(output.losses["l_features"].item())
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
    torch.testing.assert_close(weights(first), weights(second))
    assert [entry["iteration"] for entry in result.history] == [3, 6]
    assert result.history[1]["l_features"] == pytest.approx(sum(losses[3:]) / 3, rel=1e-4)
    assert result.student is first and result.averaged is first and not first.training


@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_the_callers_autocast_does_not_matter(amp: str) -> None:
    """Within another autocast PyTorch would keep the weights of the first step as it has cast them."""
    torch.manual_seed(1)
    first, teacher = Plain(), Plain(8)
    second, given = copy.deepcopy(first), {"terms": {"output": {"type": "L1Loss"}}, "data": pairs(), "amp": amp}
    kdsr.distill(first, teacher, iterations=5, device="cpu", **given)
    with torch.autocast("cpu", torch.bfloat16):
        kdsr.distill(second, teacher, iterations=5, device="cpu", **given)
    assert torch.equal(weights(first), weights(second))


def test_a_term_out_of_its_stage_has_no_ratio() -> None:
    terms = {"early": {"type": "L1Loss"}, "late": {"type": "SPLoss", "at": "up"}}
    stages = [{"iters": 2, "terms": ["pixel", "early"]}, {"iters": 2, "terms": ["pixel", "late"]}]
    told = kdsr.distill(
        Plain(), Plain(8), terms, pairs(), iterations=4, device="cpu", report_every=2, stages=stages, ratio_freq=9
    ).history
    assert [{name for name in entry if name.startswith("ratio/")} for entry in told] == [
        {"ratio/early"},
        set(),
    ]


def test_a_student_learns_what_its_teacher_does(device: torch.device) -> None:
    data, teacher = pairs(8), Plain(8)
    with torch.no_grad():
        aim = teacher(data[0][0])
        before = (Plain().requires_grad_(False)(data[0][0]) - aim).abs().mean()
    seen: list[dict[str, float]] = []
    result = kdsr.distill(
        Plain(8), teacher, {"output": {"type": "L1Loss"}}, data, iterations=120, pixel=None, device=device,
        optimizer={"type": "Adam", "lr": 1e-2}, ema_decay=0.5, grad_clip=1.0, report_every=60, report=seen.append,
    )  # fmt: skip
    with torch.no_grad():
        assert (result.averaged(data[0][0].to(device)).cpu() - aim).abs().mean() < before / 10
    assert result.averaged is not result.student and seen == result.history and len(seen) == 2
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_task_leaves_no_trace_in_the_student() -> None:
    student, teacher = Plain(), Plain(8)
    names = set(student.state_dict())
    task = kdsr.make_task(student, teacher, {"f": {"type": "FitNetLoss", "at": "up"}}, pairs()[0])
    assert set(student.state_dict()) == names and task.train_only_parameters()  # an adapter from 4 to 8 channels
    assert not {id(p) for p in task.parameters()} & {id(p) for p in teacher.parameters()}
    task.double()
    assert next(teacher.parameters()).dtype == torch.float64  # it moves with the task


def test_video_networks_and_stages() -> None:
    clips = [(torch.rand(1, 5, 3, 8, 8), torch.rand(1, 3, 3, 16, 16)) for _ in range(2)]
    terms = {"f": {"type": "SpatialAttentionLoss", "at": "f_sr"}}
    stages = [{"iters": 1, "terms": ["f"], "freeze": ["fuse"]}, {"iters": 1, "terms": ["pixel"]}]
    student, still = Window(), [stages[0], {**stages[1], "freeze": ["fuse"]}]
    fuse = student.fuse.weight.detach().clone()
    kdsr.distill(student, Window(6), terms, clips, iterations=2, stages=still, device="cpu")
    assert torch.equal(student.fuse.weight, fuse) and student.fuse.weight.requires_grad
    kdsr.distill(student, Window(6), terms, clips, iterations=2, stages=stages, device="cpu")
    assert not torch.equal(student.fuse.weight, fuse)
    task = kdsr.make_task(student, Window(6), terms, clips[0], stages=stages)
    task.set_stage(1)
    lq, gt = clips[0]
    assert set(task({"lq": lq, "gt": gt}, 1).losses) == {"l_f"} and not student.fuse.weight.requires_grad
    assert set(task({"lq": lq, "gt": gt}, 2).losses) == {"l_pix"}


def test_losses_are_functions() -> None:
    student, teacher = torch.rand(2, 4, 8, 8, requires_grad=True), torch.rand(2, 6, 8, 8, requires_grad=True)
    value = kdsr.loss("FAKDLoss", student, teacher, criterion="l2")
    torch.testing.assert_close(value, FAKDLoss(criterion="l2")(student, teacher))
    value.backward()
    assert student.grad is not None and teacher.grad is None
    both = kdsr.loss("SpatialAttentionLoss", [student, 2 * student], [teacher, teacher])
    one = SpatialAttentionLoss()
    torch.testing.assert_close(both, one(student, teacher) + one(2 * student, teacher))
    assert kdsr.loss("L1Loss", torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)) == 1


@pytest.mark.parametrize("name", ["VIDLoss", "TemporalMemoryLoss", "DUKDLoss", "ECOLoss"])
def test_what_is_no_function_says_so(name: str) -> None:
    maps = [torch.rand(2, 4, 8, 8)] if name == "VIDLoss" else torch.rand(2, 3, 4, 8, 8)
    with refuses(name, "make_task"):
        kdsr.loss(name, maps, maps)


def test_relations_between_samples_need_three() -> None:
    """The dry run, on a batch of one, does not."""
    term = {"f": {"type": "RKDLoss", "at": "up"}}
    batches = {count: pairs(1, count)[0] for count in (2, 3)}
    tasks = {count: kdsr.make_task(Plain(), Plain(6), term, batch) for count, batch in batches.items()}
    data = {count: {"lq": lq, "gt": gt} for count, (lq, gt) in batches.items()}
    assert tasks[3](data[3], 1).losses["l_f"] > 0
    with refuses("RKDLoss", "3 or more", "2"):
        tasks[2](data[2], 1)


def test_wrong_input_is_told_in_a_sentence() -> None:
    lq, gt = pairs()[0]
    student, net, data = Plain(), Plain(), pairs()
    for call, name in (
        (lambda: kdsr.make_task(student, net, {"f": {"type": "FAKDLoss", "at": "upp"}}, (lq, gt)), "upp"),
        (lambda: kdsr.make_task(student, net, {"f": {"type": "FAKDLos", "at": "up"}}, (lq, gt)), "FAKDLos"),
        (lambda: kdsr.make_task(student, net, {"f": {"type": "FAKDLoss", "att": "up"}}, (lq, gt)), "att"),
        (lambda: kdsr.make_task(student, None, {"f": {"type": "L1Loss"}}, (lq, gt)), "f"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt), pixel=None), "pixel_opt"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt[..., 1:])), "(16, 15)"),
        (lambda: kdsr.make_task(student, net, {}, ((255 * lq).byte(), gt)), "uint8"),
        (lambda: kdsr.make_task(student, net, {}, lq), "batch"),
        (lambda: kdsr.distill(student, net, {}, iter(data), iterations=9, device="cpu"), "4"),
        (lambda: kdsr.distill(student, net, {}, [], iterations=9, device="cpu"), "0"),
        (lambda: kdsr.distill(student, student, {}, data, iterations=9), "deepcopy"),
        (lambda: kdsr.distill(net.requires_grad_(False), None, {}, data, iterations=9), "requires_grad_"),
        (lambda: kdsr.distill(student, net, {}, 7, iterations=9), "DataLoader"),
        (lambda: kdsr.distill(student, net, {}, data, iterations=0), "total_iter"),
        (lambda: kdsr.distill(student, net, {}, data, iterations=9, grad_clp=1.0), "grad_clp"),
        (lambda: kdsr.distill(student, net, {}, data, iterations=9, cuda_graph=True), "cuda_graph"),
        (lambda: kdsr.distill(student, net, {}, data, iterations=9, optimizer={"type": "Adamm"}), "Adamm"),
        (lambda: kdsr.distill(student, net, {}, data, iterations=9, scheduler={"type": "StepLR", "step_size": 0}),
         "train.scheduler"),
        (lambda: kdsr.distill(student, net, {}, data, iterations=9, report_every=0), "report_every"),
        (lambda: kdsr.distill("PlainSR_x4_50k", net, {}, data, iterations=9), "PlainSR_x4_50k"),
        (lambda: kdsr.distill(None, net, {}, data, iterations=9), "student"),
        (lambda: kdsr.make_task(student, "PlainSR_x4_50k", {}, (lq, gt)), "teacher"),
        (lambda: kdsr.make_task(student, net, {}, (255 * lq, gt)), "lq"),
        (lambda: kdsr.distill(student, net, {}, [(lq, 255 * gt)], iterations=9, device="cpu"), "255"),
        (lambda: kdsr.loss("FAKDLoss", lq, lq, affinity="none"), "affinity"),
        (lambda: kdsr.loss("SRKDLoss", lq.numpy(), lq.numpy()), "ndarray"),
        (lambda: kdsr.loss("SRKDLoss", lq, lq.numpy()), "teacher"),
        (lambda: kdsr.loss("SRKDLoss", [lq, lq], [lq]), "1"),
        (lambda: kdsr.loss("RKDLoss", lq, lq), "3 or more"),
        (lambda: kdsr.loss("L1Loss", lq, lq, reduction="none"), "no scalar"),
        (lambda: kdsr.loss("L1Loss", lq), "L1Loss"),
        (lambda: kdsr.loss("SRKDLoss", lq), "teacher"),
        (lambda: kdsr.loss("L1Loss", [], []), "student"),
        (lambda: kdsr.loss("SRKDLoss", lq, lq[:1]), "(1, 3, 8, 8)"),
        (lambda: kdsr.make_task(Plain().double(), net, {}, (lq, gt)), "float64"),
        (lambda: kdsr.distill(student, Plain().bfloat16(), {}, data, iterations=2, device="cpu"), "bfloat16"),
        (lambda: kdsr.make_task(student, net, {}, (lq[:0], gt[:0])), "(0, 3, 8, 8)"),
        (lambda: kdsr.distill(student, net, {}, [data[0], (lq[:0], gt[:0])], iterations=2, device="cpu"), "lq"),
        (lambda: kdsr.make_task(student, net, {}, (lq[..., :0, :], gt[..., :0, :])), "(2, 3, 0, 8)"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt), stages=5), "train.stages"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt), stages=[5]), "train.stages.0"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt), stages=[{"iters": "5"}]), "train.stages.0.iters"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt), stages=[{"iters": 5, "gt_size": 8}]), "stages.0.gt_size"),
        (lambda: kdsr.distill(student, net, {}, data, iterations=5, stages=[{"iters": 5, "gt_size": 8}]), "gt_size"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt), scale="2"), "scale"),
        (lambda: kdsr.make_task(student, net, {}, (lq, gt), scale=2.0), "scale"),
        (lambda: kdsr.load("PlainSR_x4_50k", network=5), "network"),
    ):  # fmt: skip
        with refuses(name):
            call()
    with refuses("l_pix", "iteration 1"):
        kdsr.distill(student, None, {}, [(lq * torch.nan, gt)], iterations=2, device="cpu")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(mode: type) -> None:
    student, teacher, data = Plain(), Plain(8), pairs()
    other, before = copy.deepcopy(student), weights(student)
    terms = {"features": {"type": "FAKDLoss", "at": "up"}}
    with mode():
        copies = [(lq.clone(), gt.clone()) for lq, gt in data]
        kdsr.make_task(student, teacher, terms, copies[0])
        kdsr.distill(student, teacher, terms, copies, iterations=np.int64(2), device="cpu")
    kdsr.distill(other, teacher, terms, data, iterations=2, device="cpu")
    assert torch.equal(weights(student), weights(other)) and not torch.equal(weights(student), before)
    with mode(), refuses("torch.inference_mode") if mode is torch.inference_mode else nullcontext():
        kdsr.distill(Plain(), teacher, terms, data, iterations=1, device="cpu")


def test_a_teacher_that_someone_puts_into_training_mode_stays_what_it_is() -> None:
    data, teacher = pairs(), Plain(8)
    teacher.up.append(nn.BatchNorm2d(8))
    task = kdsr.make_task(Plain(), teacher, TERMS, data[0])
    before = task(data[0], 1).raw["l_output"]
    teacher.train()  # as Lightning does with a module that holds the teacher beside the task
    assert torch.equal(task(data[0], 2).raw["l_output"], before)
    assert int(teacher.up[-1].num_batches_tracked) == 0


def test_a_term_that_reaches_no_weight_is_told_without_a_measurement(caplog: pytest.LogCaptureFixture) -> None:
    class Cut(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():  # what checkpoint(use_reentrant=True) does
                feature = self.up(x)
            return self.last(feature)

    data, terms = pairs(), {"cut": {"type": "FAKDLoss", "at": "up"}, "output": {"type": "L1Loss"}}
    task = kdsr.make_task(Cut(), Plain(8), terms, data[0])
    for iteration in (1, 2):
        task(data[0], iteration).total.backward()
    told = [record.getMessage() for record in caplog.records if "reaches no weight" in record.getMessage()]
    assert len(told) == 1 and "'cut'" in told[0]


def test_outputs_and_ground_truth_of_other_sizes_are_refused_in_the_loop_too() -> None:
    class Four(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(super().forward(x), scale_factor=2)

    data, output = pairs(), {"output": {"type": "L1Loss"}}
    with refuses("the student restores 16x16, the teacher 32x32"):
        kdsr.make_task(Plain(), Four(8), output, data[0])
    resized = {"output": {"type": "L1Loss", "adapter": {"type": "resize"}}}
    assert "resize" in kdsr.make_task(Plain(), Four(8), resized, data[0]).table()
    task, (lq, gt) = kdsr.make_task(Plain(), Plain(8), output, data[0]), data[0]
    assert torch.equal(task(data[0], 1).total, task({"lq": lq, "gt": gt}, 1).total)
    with refuses("ground truth is (1, 3, 16, 16)"):  # it would be broadcast
        task({"lq": lq, "gt": gt[:1]}, 1)
    with refuses("lq: must be floats"):
        task({"lq": lq.byte(), "gt": gt}, 1)
    with refuses("must be a pair"):
        task({"lq": lq}, 1)


def test_a_wrapped_student_is_refused_for_its_adapters_would_not_follow() -> None:
    with refuses("give the network itself, not DataParallel"):
        kdsr.make_task(nn.DataParallel(Plain()), Plain(8), TERMS, pairs()[0])


def test_the_precision_is_both_networks() -> None:
    seen: dict[str, torch.dtype] = {}
    student, teacher = Plain(), Plain(8)
    for name, net in (("student", student), ("teacher", teacher)):
        net.last.register_forward_hook(lambda module, args, out, name=name: seen.__setitem__(name, out.dtype))
    kdsr.make_task(student, teacher, {"output": {"type": "L1Loss"}}, pairs()[0], amp="bf16")
    assert seen == {"student": torch.bfloat16, "teacher": torch.bfloat16}


def test_a_task_is_copied_and_pickled_after_it_was_used() -> None:
    data = pairs()
    task = kdsr.make_task(Plain(), Plain(8), TERMS, data[0])
    expected = task(data[0], 1).total
    task.student.zero_grad()
    again = copy.deepcopy(task)
    assert torch.equal(again(data[0], 1).total, expected) and again.student is not task.student
    assert torch.equal(pickle.loads(pickle.dumps(again))(data[0], 1).total, expected)


def test_networks_that_were_compiled_and_run_before() -> None:
    data, torch_compile = pairs(), torch.compile
    student, teacher = Plain(), Plain(8)
    expected = kdsr.make_task(copy.deepcopy(student), copy.deepcopy(teacher), TERMS, data[0])(data[0], 1)
    torch._dynamo.config.skip_nnmodule_hook_guards = True  # torch's default, which other tests have changed
    compiled = [torch_compile(net, backend="aot_eager") for net in (student, teacher)]
    for net in compiled:
        net(data[0][0])  # a graph without hooks, which would serve the calls that record
    task = kdsr.make_task(*compiled, TERMS, data[0])
    assert task.student is student
    for name, value in task(data[0], 1).raw.items():
        torch.testing.assert_close(value, expected.raw[name])


def test_a_stage_freezes_without_being_set() -> None:
    data, stages = pairs(), [{"iters": 1, "freeze": ["up"]}, {"iters": 1}]
    task = kdsr.make_task(Plain(), Plain(8), {"output": {"type": "L1Loss"}}, data[0], stages=stages)
    frozen = []
    for iteration in (1, 2):
        task(data[0], iteration).total.backward()
        frozen.append(task.student.up[0].weight.grad is None)
    assert frozen == [True, False]


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(device: str) -> None:
    with refuses(f"device '{device}'"):
        kdsr.distill(Plain(), None, {}, pairs(), iterations=1, device=device)
