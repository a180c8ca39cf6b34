"""Weights beside which nothing lies are known by their entries, as far as they are known at all."""

import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.cli import main
from kdsr_arch.convert.recognize import open_any
from kdsr_arch.infer.pixels import to_float
from kdsr_arch.io import save_tensors
from kdsr_arch.upscale.picture import Picture, read_picture
from kdsr_arch.upscale.picture_output import write_picture
from tests.helpers.messages import missing, refuses
from tests.helpers.networks import make_network

NETWORKS = {
    "imdn": {"type": "IMDN", "scale": 2, "num_feat": 16, "num_block": 1},
    "carn": {"type": "CARN", "scale": 2, "num_feat": 8},
}


def published(tmp_path, network):
    """A file as the network's authors would publish it, under their names, and the network."""
    torch.manual_seed(0)
    net = make_network(network).eval()
    save_tensors({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "published.pth")
    return net, tmp_path / "published.pth"


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_converters_know_their_files(tmp_path, network):
    net, path = published(tmp_path, network)
    opened = open_any(path)
    assert (opened.network["type"], opened.traits.scale) == (network["type"], 2)
    lq = torch.rand(1, 3, 12, 14)
    with torch.no_grad():
        torch.testing.assert_close(opened.net(lq), net(lq))


def test_spandrel_knows_its_files(tmp_path, capsys):
    pytest.importorskip("spandrel")
    net, path = published(tmp_path, {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 2, "upscale": 2})
    write_picture(tmp_path / "a.png", Picture(np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)))
    arguments = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--weights", str(path)]
    assert main(arguments) == 0 and not missing(capsys.readouterr().out, path, "spandrel", "x2")
    lq = to_float(read_picture(tmp_path / "a.png").color)[None]
    with torch.no_grad():
        exact = net(lq)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(read_picture(tmp_path / "b.png").color - exact).max() <= 1


def test_a_scale_that_no_entry_tells_is_asked_for(tmp_path, capsys):
    net = make_network({"type": "VDSR", "scale": 2, "num_in_ch": 1, "num_feat": 4, "num_layer": 3})
    save_tensors(net.state_dict(), tmp_path / "vdsr.pth")
    with refuses(tmp_path / "vdsr.pth", "VDSR", "--scale"):
        open_any(tmp_path / "vdsr.pth")
    assert open_any(tmp_path / "vdsr.pth", None, 3).traits.scale == 3


def test_what_lies_beside_the_weights_comes_first(tmp_path):
    _, path = published(tmp_path, NETWORKS["imdn"])
    other = {"type": "VDSR", "scale": 2}
    path.with_suffix(".yml").write_text(yaml.safe_dump({"network": other}))
    with refuses(path, "VDSR"):
        open_any(path)


def test_what_nobody_knows(tmp_path):
    save_tensors({"strange.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with refuses(tmp_path / "x.pth", "--network", "spandrel"):
        open_any(tmp_path / "x.pth")
