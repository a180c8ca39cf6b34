"""Every video teacher teaches every video student: one step in memory; trained, resumed and tested by option file."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network

from kdsr_arch.evaluate import tester as test_command
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.options import load_options
from kdsr_arch.registry import register_all
from kdsr_arch.train.entry import train
from tests.helpers.options import make_task

register_all()

TEACHERS = {  # options, smallest LR side in multiples of 4
    "EDVR": ({"num_feat": 8, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1}, 16),
    "EDVRSlim": (
        {
            "num_feat": 8,
            "num_frame": 3,
            "num_hr_feat": 8,
            "deformable_groups": 2,
            "num_extract_block": 1,
            "num_reconstruct_block": 1,
        },
        16,
    ),
    "DUF": ({"num_layer": 16}, 12),
    "TOFlow": ({}, 12),
    "BasicVSR": ({"num_feat": 8, "num_block": 1}, 36),
    "BasicVSRPlusPlus": ({"mid_channels": 8, "num_blocks": 1}, 64),
}
STUDENTS = {
    "VESPCN": {"num_feat": 8, "num_hr_feat": 8, "num_block": 1, "num_flow_feat": 4},
    "VSRNet": {"num_feat": 4, "num_mid_feat": 4},
    "FastDVDnet": {"channels": [4, 4, 8], "num_interm": 2, "num_hr_feat": 4},
}
BOTH = {  # networks that are students and teachers
    "TDAN": ({"num_feat": 8, "num_extract_block": 1, "num_block": 1, "deformable_groups": 2}, 12),
    "RSDN": ({"num_feat": 4, "num_block": 1}, 12),
    "RLSP": ({"num_feat": 4, "num_block": 1, "motion": True, "num_flow_feat": 4}, 12),
    "PFNL": ({"num_feat": 4, "num_block": 1, "num_frame": 5}, 12),
    "DRVSR": ({"num_feat": 4, "num_flow_feat": 4}, 12),
    "LTDVSRRebuild": ({"num_feat": 4, "num_flow_feat": 4}, 12),
}
PAIRS = [(teacher, student) for teacher in TEACHERS for student in STUDENTS]
PAIRS += [
    *(("EDVR", name) for name in BOTH),
    *((name, "VESPCN") for name in BOTH),
    ("PFNL", "RSDN"),
    ("RSDN", "DRVSR"),
]
TEACHERS |= BOTH
STUDENTS |= {name: options for name, (options, _) in BOTH.items()}
MOTION = {
    "VESPCN": {"loss_weight": 0.01},
    "TDAN": {"smoothness": 0, "loss_weight": 0.05},
    "DRVSR": {"form": "drvsr", "loss_weight": 0.01},
    "LTDVSRRebuild": {"form": "drvsr", "loss_weight": 0.01},
}
OWN = {
    "RSDN": {"type": "StructureDetailLoss", "student": ["structure", "detail"], "teacher": ["gt", "gt"]},
    "DRVSR": {"type": "StepsLoss", "student": "steps", "teacher": "gt"},
}
TERMS = {
    "sr_feature": {"type": "MSELoss", "at": "f_sr"},
    "lr_feature": {"type": "MSELoss", "at": "f_lr"},
    "output": {"type": "L1Loss"},
}


@pytest.mark.parametrize(("teacher_type", "student_type"), PAIRS)
def test_one_step(teacher_type, student_type, device):
    options, side = TEACHERS[teacher_type]
    teacher = build_network({"type": teacher_type, **options})
    student = build_network({"type": student_type, **STUDENTS[student_type]})
    terms = {name: term for name, term in TERMS.items() if term.get("at") in (None, "f_lr", _feature(teacher, student))}
    if student_type in MOTION:
        terms["motion"] = {"type": "MotionCompensationLoss", "student": "motion", **MOTION[student_type]}
    if student_type in OWN:
        terms["own"] = OWN[student_type]
    window = max(traits_of(net, 4).num_frame for net in (teacher, student))
    lq = torch.rand(1, 1 + window, 3, side, side, device=device)
    gt = torch.rand(1, 2, 3, 4 * side, 4 * side, device=device)
    batch, values = {"lq": lq, "gt": gt}, {"pixel_opt": {"type": "CharbonnierLoss"}, "distill_opt": terms}
    task = make_task(student, teacher, values, batch, scale=4)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.SGD([*student.parameters(), *task.train_only_parameters()], lr=1e-3)
    output = task(batch, 0)
    assert output.sr.shape[:2] == (1, 2) and len(output.losses) == len(terms) + 1
    sum(output.losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in student.parameters())
    assert any(not torch.equal(p, before[name]) for name, p in student.named_parameters())
    assert all(p.grad is None for p in teacher.parameters())
    _assert_file_restores(student.cpu(), {"type": student_type, **STUDENTS[student_type]}, lq[..., :12, :12].cpu())


@pytest.mark.parametrize("name", BOTH)
def test_samples_of_a_batch_are_independent(name):
    net = build_network({"type": name, **BOTH[name][0]})
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    frames = torch.rand(2, max(net.traits.num_frame, 3), 1 if net.traits.color == "y" else 3, 12, 12)
    for whole, part in zip(_made(net, frames), _made(net, frames[1:]), strict=True):
        torch.testing.assert_close(whole[-len(part) :], part, atol=1e-4, rtol=1e-4)


def _made(net, x):
    """What the network returns, and those of its parts that its own terms tap."""
    made = []
    parts = [part for name, part in net.named_children() if name in ("motion", "steps")]
    hooks = [
        part.register_forward_hook(lambda m, i, out: made.extend(out if type(out) is tuple else [out]))
        for part in parts
    ]
    made.append(net(x))
    for hook in hooks:
        hook.remove()
    return made


def _feature(*networks):
    """F^SR, where all have it."""
    return "f_sr" if all("f_sr" in traits_of(net, 4).taps for net in networks) else "f_lr"


def _assert_file_restores(student, opt, lq):
    """The student's own state alone rebuilds it: nothing of the training's extras is in it or missing."""
    copy = build_network(opt)
    copy.load_state_dict(student.state_dict())
    runners = [Runner(net.eval(), traits_of(net, 4)) for net in (student, copy)]
    with torch.inference_mode():
        first, second = (runner.restore(lq[:, :3]) for runner in runners)
    assert torch.equal(first, second)
    assert first.shape == (1, 3, 3, 48, 48)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """One clip of nine frames, 256x256, whose texture moves."""
    folder = tmp_path_factory.mktemp("clips") / "a"
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (36, 36, 3), np.uint8)
    texture = cv2.resize(coarse, (288, 288), interpolation=cv2.INTER_CUBIC)
    for step in range(9):
        cv2.imwrite(str(folder / f"{step:08d}.png"), texture[16:272, 3 * step : 3 * step + 256])
    return folder.parent


def _option_file(root: Path, clips: Path, pair: tuple[str, str], total_iter: int) -> Path:
    """The option file of space-time distillation for one pair: both terms at F^SR, and the output's."""
    teacher_type, student_type = pair
    options, side = TEACHERS[teacher_type]
    tap = _feature(*(build_network(opt) for opt in _networks(*pair)))
    terms = {
        "spatial": {"type": "SpatialAttentionLoss", "at": tap},
        "output": {"type": "L1Loss"},
        "temporal": {"type": "TemporalMemoryLoss", "at": tap, "lstm": "trained", "downsample": 4},
    }
    frames = {"type": "ClipDataset", "dataroot_gt": str(clips), "degradation": "BI", "name": "clips"}
    window = max(traits_of(build_network(opt), 4).num_frame for opt in _networks(*pair))
    teacher = {"type": teacher_type, **options}
    torch.manual_seed(1)
    torch.save({"params": build_network(dict(teacher)).state_dict()}, root / "teacher.pth")
    content = {
        "name": "pair",
        "model_type": "VideoDistillModel",
        "scale": 4,
        "num_gpu": 0,
        "manual_seed": 2,
        "datasets": {
            "train": {
                **frames,
                "gt_size": 4 * side,
                "clip_length": 2,
                "num_frame": window,
                "use_hflip": True,
                "batch_size_per_gpu": 1,
                "num_worker_per_gpu": 0,
            }
        },
        "network_g": {"type": student_type, **STUDENTS[student_type]},
        "network_t": teacher,
        "path": {"pretrain_network_t": str(root / "teacher.pth")},
        "train": {
            "total_iter": total_iter,
            "distill_opt": terms,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "ema_decay": 0.5,
            "pixel_opt": {"type": "CharbonnierLoss"},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1},
    }
    (root / "options").mkdir(exist_ok=True)
    file = root / "options" / "pair.yml"
    file.write_text(yaml.safe_dump(content))
    return file


def _networks(teacher_type, student_type):
    return {"type": teacher_type, **TEACHERS[teacher_type][0]}, {"type": student_type, **STUDENTS[student_type]}


def _train(root, clips, pair, total_iter):
    opt = load_options(_option_file(root, clips, pair, total_iter), is_train=True)
    assert train(opt, auto_resume=True) == 0
    return root / "experiments" / "pair"


@pytest.mark.slow
@pytest.mark.parametrize(("teacher_type", "student_type"), PAIRS)
def test_train_save_resume_and_test_by_option_file(teacher_type, student_type, clip, tmp_path):
    """Two iterations equal one, an end, and one more, bit for bit; what they saved restores a clip."""
    pair = (teacher_type, student_type)
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    whole = _train(tmp_path / "whole", clip, pair, 2)
    _train(tmp_path / "resumed", clip, pair, 1)
    resumed = _train(tmp_path / "resumed", clip, pair, 2)
    one, other = (torch.load(folder / "models" / "net_g_2.pth", weights_only=True) for folder in (whole, resumed))
    assert set(one) == {"params", "params_ema"}
    assert all(torch.equal(one[kind][name], other[kind][name]) for kind in one for name in one[kind])
    records = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert all(records[-1][f"l_{term}"] > 0 for term in ("pix", "spatial", "output", "temporal"))

    options = {
        "name": "tested",
        "model_type": "VideoDistillModel",
        "scale": 4,
        "num_gpu": 0,
        "datasets": {"test": {"name": "a", "type": "ClipDataset", "dataroot_gt": str(clip), "degradation": "BI"}},
        "network_g": _networks(*pair)[1],
        "path": {"pretrain_network_g": str(whole / "models" / "net_g_2.pth")},
        "val": {"speed_size": None, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(options))
    report = test_command.run(load_options(tmp_path / "test.yml", is_train=False, root=tmp_path), progress=False)
    assert 0 < report.results[0].mean["psnr"] < 60 and report.results[0].per_item[0][2] == 9
