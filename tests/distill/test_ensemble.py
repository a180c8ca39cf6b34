"""Several teachers: their mean, each on its own, and networks that want different things."""

import pytest
import torch
from torch import nn

from kdsr_arch.archs.fsrcnn_arch import FSRCNN
from kdsr_arch.archs.vdsr_arch import VDSR
from kdsr_arch.archs.vespcn_arch import VESPCN
from kdsr_arch.distill.teachers import Ensemble, SelfEnsemble, build_teacher
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits
from kdsr_arch.io import save_tensors
from kdsr_arch.ops.color import rgb_to_y
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network
from tests.helpers.options import make_options, make_task

SMALL = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}


def image_nets():
    return {name: make_network(SMALL).eval() for name in ("t", "t2")}


def test_output_is_the_mean_and_members_are_taps():
    members, student = image_nets(), make_network(SMALL)
    for p in members["t2"].parameters():
        p.data += 0.05
    terms = {'mean': {'type': 'L1Loss'}, 'first': {'type': 'L1Loss', 'teacher': 't', 'student': 'output'},
             'second': {'type': 'L1Loss', 'teacher': 't2', 'student': 'output'},
             'inner': {'type': 'L1Loss', 'teacher': 't2.f_lr', 'student': 'f_lr'},
             'path': {'type': 'L1Loss', 'teacher': 't2.body.0', 'student': 'body.0'},
             'each': {'type': 'L1Loss', 'teacher': ['t', 't2'], 'student': 'output',
                      'layer_weights': [1, 2]}}  # fmt: skip
    lq, gt = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    batch = {"lq": lq, "gt": gt}
    raw = make_task(student, Ensemble(members, 2), {"distill_opt": terms}, batch)(batch, 1).raw
    with torch.no_grad():
        ours, (a, b) = student(lq), (net(lq) for net in members.values())
    assert raw["l_first"].item() == pytest.approx((ours - a).abs().mean().item(), rel=1e-5)
    assert raw["l_second"].item() == pytest.approx((ours - b).abs().mean().item(), rel=1e-5)
    assert raw["l_mean"].item() == pytest.approx((ours - (a + b) / 2).abs().mean().item(), rel=1e-5)
    assert raw["l_each"].item() == pytest.approx((raw["l_first"] + 2 * raw["l_second"]).item(), rel=1e-5)
    assert raw["l_inner"] > 0 and raw["l_path"] > 0


def test_colors_and_interpolated_inputs_are_each_members_own():
    members = {
        "t": make_network(SMALL).eval(),
        "t2": VDSR(scale=2, num_in_ch=1).eval(),
        "t3": FSRCNN(2).eval(),
    }
    ensemble = Ensemble(members, 2)
    lq = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        got = Runner(ensemble, ensemble.traits).forward(lq)
        parts = [Runner(net, net.traits).forward(lq) for name, net in members.items() if name != "t"]
        wanted = (rgb_to_y(members["t"](lq)) + parts[0] + parts[1]) / 3
    torch.testing.assert_close(got, wanted)


def test_a_luma_student_sees_the_luma_of_each_teacher():
    members, student = image_nets(), make_network({**SMALL, "num_in_ch": 1, "num_out_ch": 1})
    terms = {"second": {"type": "L1Loss", "teacher": "t2", "student": "output"}}
    batch = {"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)}
    task = make_task(student, Ensemble(members, 2), {"distill_opt": terms}, batch)
    with torch.no_grad():
        expected = nn.functional.l1_loss(student(rgb_to_y(batch["lq"])), rgb_to_y(members["t2"](batch["lq"])))
    torch.testing.assert_close(task(batch, 1).raw["l_second"], expected)
    assert not task.train_only_parameters()  # no adapter made colors of luma


def test_an_image_network_restores_the_center_of_a_window():
    members = {'t': VESPCN(2, 5, 8, 8, 1, num_flow_feat=4).eval(), 't2': make_network(SMALL).eval(),
               't3': VESPCN(2, 3, 8, 8, 1, num_flow_feat=4).eval()}  # fmt: skip
    ensemble = Ensemble(members, 2)
    assert (ensemble.traits.mode, ensemble.traits.num_frame) == ("window", 5)
    clip = torch.rand(1, 5, 3, 8, 12)
    with torch.no_grad():
        wanted = (members["t"](clip) + members["t2"](clip[:, 2]) + members["t3"](clip[:, 1:4])) / 3
        torch.testing.assert_close(ensemble(clip), wanted)


class Whole(nn.Module):
    traits = Traits("recurrent", 2)


def test_what_does_not_go_together():
    with refuses("teachers", "recurrent"):
        Ensemble({"t": Whole(), "t2": make_network(SMALL)}, 2)
    with refuses("FSRCNN", 4, 2):
        Ensemble({"t": make_network(SMALL), "t2": FSRCNN(4)}, 2)


def test_built_from_options_with_the_weights_of_each(tmp_path):
    opt = {"scale": 2, "path": {}, "network_g": SMALL}
    for key in ("t", "t2"):
        opt[f"network_{key}"], opt["path"][f"pretrain_network_{key}"] = SMALL, str(tmp_path / f"{key}.pth")
        save_tensors({"params": make_network(SMALL).state_dict()}, tmp_path / f"{key}.pth")
    ensemble = build_teacher(make_options(opt))
    saved_weight = torch.load(tmp_path / "t2.pth", weights_only=True)["params"]["conv_first.weight"]
    assert torch.equal(ensemble.get_submodule("t2").net.conv_first.weight, saved_weight)
    del opt["path"]["pretrain_network_t2"]
    with refuses("path.pretrain_network_t2"):
        build_teacher(make_options(opt))
    assert build_teacher(make_options({"network_g": SMALL})) is None


def test_a_self_ensemble_is_the_mean_of_eight_and_turns_with_its_input():
    net, lq = make_network(SMALL).eval(), torch.rand(1, 3, 6, 9)
    ensemble = SelfEnsemble(net, 2)
    with torch.no_grad():
        views = [
            torch.rot90(net(torch.rot90(image, turns, (-2, -1))), -turns, (-2, -1))
            for image in (lq,)
            for turns in range(4)
        ]
        mirrored = [
            torch.rot90(net(torch.rot90(lq.flip(-1), turns, (-2, -1))), -turns, (-2, -1)).flip(-1) for turns in range(4)
        ]
        torch.testing.assert_close(ensemble(lq), torch.stack(views + mirrored).mean(0))
        turned = torch.rot90(ensemble(lq), 1, (-2, -1))
        torch.testing.assert_close(ensemble(torch.rot90(lq, 1, (-2, -1))), turned)


def test_only_images_are_self_ensembled():
    with refuses("teacher.self_ensemble: is for teachers of single images"):
        SelfEnsemble(VESPCN(num_feat=8, num_hr_feat=8, num_flow_feat=4), 4)
