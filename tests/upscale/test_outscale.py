"""Networks made to enlarge by another factor: theirs, then a resize, however they are called and tiled."""

import numpy as np
import pytest
import torch

from kdsr_arch.cli import main
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.bicubic import imresize
from kdsr_arch.upscale.dispatch import rescaled
from kdsr_arch.upscale.picture import Picture, read_picture
from kdsr_arch.upscale.picture_output import write_picture
from tests.helpers.networks import make_network

NETWORKS = {
    "image": {"type": "FSRCNN", "scale": 4, "num_in_ch": 3, "d": 8, "s": 4, "m": 1},
    "on enlarged frames": {"type": "VDSR", "scale": 3, "num_in_ch": 3, "num_feat": 4, "num_layer": 3},
    "window": {"type": "VESPCN", "scale": 4, "num_feat": 8, "num_hr_feat": 4, "num_block": 1, "num_flow_feat": 4},
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("scale", [1, 2, 3, 5])
def test_what_the_network_makes_is_resized(network, scale):
    torch.manual_seed(0)
    net = make_network(network).eval().requires_grad_(False)
    traits = traits_of(net)
    made = rescaled(Opened(net, traits, network), scale)
    lq = torch.rand(3, 3, 13, 18)

    def restored(net, traits, **more):
        return Restorer(Runner(net, traits), torch.device("cpu"), **more).frames(lq, [1])

    with torch.no_grad():
        own, out = restored(net, traits), restored(made.net, made.traits)
        tiled = restored(made.net, made.traits, tile=9, overlap=12)
    exact = imresize(own, scale / traits.scale)[..., : 13 * scale, : 18 * scale]
    assert out.shape == (1, 3, 13 * scale, 18 * scale)
    torch.testing.assert_close(out, exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled, out, atol=1e-4, rtol=0)


def test_the_command(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.png", Picture(image))
    network = ["--network", "{type: Bicubic, scale: 4}"]
    arguments = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), *network, "--outscale"]
    assert main([*arguments, "2"]) == 0 and read_picture(tmp_path / "b.png").color.shape == (24, 28, 3)
    assert main([*arguments, "0", "--overwrite"]) == 2
