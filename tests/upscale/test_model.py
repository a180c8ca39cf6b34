"""Which network upscales: files, what lies beside them, names, ONNX, and what is said where none is found."""

import pytest
import torch
import yaml

from kdsr_arch.infer.networks import build_network
from kdsr_arch.upscale.chunks import Piece, Restorer
from kdsr_arch.upscale.model import find_weights, open_model
from tests.helpers.messages import refuses

TINY = {
    "type": "VESPCN",
    "scale": 2,
    "num_feat": 8,
    "num_hr_feat": 4,
    "num_block": 1,
    "num_flow_feat": 4,
    "base": "bicubic",
}


def write_weights(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    net = build_network(TINY)
    torch.save({"params": net.state_dict()}, path)
    return net.eval()


def restored(model):
    lq = torch.rand(3, 12, 14, generator=torch.Generator().manual_seed(1))
    return Restorer(model).restore(Piece([lq, lq.flip(1), lq], 1, 1))


def test_the_network_lies_beside_the_weights(tmp_path):
    net = write_weights(tmp_path / "student.pth")
    with refuses("student.pth", "-opt", "--network"):
        open_model(str(tmp_path / "student.pth"))
    (tmp_path / "student.yml").write_text(yaml.safe_dump({"network": TINY, "scale": 2}))
    model = open_model(str(tmp_path / "student.pth"))
    assert model.traits.scale == 2 and model.label == "student" and model.traits.num_frame == 3
    said = open_model(str(tmp_path / "student.pth"), yaml.safe_dump(TINY, default_flow_style=True).strip())
    torch.testing.assert_close(restored(model), restored(said))
    assert sum(p.numel() for p in model.runner.net.parameters()) == sum(p.numel() for p in net.parameters())


def test_the_option_file_of_a_run(tmp_path):
    write_weights(tmp_path / "experiments" / "run" / "models" / "net_g_5.pth")
    (tmp_path / "experiments" / "run" / "train.yml").write_text(yaml.safe_dump({"network_g": TINY, "scale": 2}))
    assert open_model(str(tmp_path / "experiments" / "run" / "models" / "net_g_5.pth")).traits.scale == 2


def test_names(tmp_path):
    folder = tmp_path / "experiments" / "pretrained_models"
    write_weights(folder / "Tiny_x2.pth")
    (folder / "Tiny_x2.yml").write_text(yaml.safe_dump({"network": TINY}))
    assert find_weights("Tiny_x2", tmp_path) == folder / "Tiny_x2.pth"
    assert open_model("Tiny_x2", root=tmp_path).traits.scale == 2
    with refuses("--weights tiny_x", near="Tiny_x2"):
        find_weights("tiny_x", tmp_path)


def test_changed_weights_have_another_fingerprint(tmp_path):
    prints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        write_weights(tmp_path / "s.pth")
        prints.append(open_model(str(tmp_path / "s.pth"), str(TINY).replace("'", "")).fingerprint)
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("keywords", "names"),
    [
        ({"network": "{type: Bicubic, scale: 2}", "scale": 4}, ["--scale 4", "Bicubic", 2]),
        ({"network": "type: Nothing"}, ["network.type", "'Nothing'"]),
        ({"network": "{type: [}"}, ["--network {type: [}", "YAML"]),
        ({"network": "nothing"}, ["--network", "nothing", "{type: FSRCNN, scale: 4}"]),
        ({"network": "{type: VESPCN}"}, ["VESPCN", "--weights FILE"]),
        ({"network": "{type: Bicubic}", "precision": "fp16"}, ["--precision fp16", "CUDA"]),
        ({"network": "{type: Bicubic}", "precision": "int4"}, ["--precision int4", "fp16", "bf16"]),
    ],
)
def test_refusals(keywords, names):
    with refuses(*names):
        open_model(None, **keywords)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"nothing")
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "b.pth")
    with refuses(tmp_path / "a.pth", "damaged"):
        open_model(str(tmp_path / "a.pth"), str(TINY).replace("'", ""))
    with refuses(tmp_path / "b.pth", "code"):
        open_model(str(tmp_path / "b.pth"), str(TINY).replace("'", ""))


def test_onnx_files(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    from kdsr_arch.export.form import prepare
    from kdsr_arch.export.formats import to_onnx
    from kdsr_arch.export.source import open_student

    write_weights(tmp_path / "student.pth")
    (tmp_path / "student.yml").write_text(yaml.safe_dump({"network": TINY}))
    to_onnx(prepare(open_student(tmp_path / "student.pth")), tmp_path / "exported.onnx")
    model, onnx = open_model(str(tmp_path / "student.pth")), open_model(str(tmp_path / "exported.onnx"))
    assert (onnx.traits.mode, onnx.traits.num_frame, onnx.traits.scale) == ("window", 3, 2)
    torch.testing.assert_close(restored(onnx), restored(model), atol=1e-5, rtol=0)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with refuses(tmp_path / "broken.onnx", "ONNX"):
        open_model(str(tmp_path / "broken.onnx"))
