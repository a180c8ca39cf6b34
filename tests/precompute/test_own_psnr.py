"""The gain of a teacher that is several networks, or turned eight ways, over its single networks."""

import numpy as np
import pytest
import torch

from kdsr_arch.data.loader import open_dataset
from kdsr_arch.io import save_tensors
from kdsr_arch.precompute.own_psnr import OwnPsnr, measure_own_psnr
from tests.helpers.images import write_textures
from tests.helpers.networks import make_network
from tests.helpers.options import dataset_options, make_options

SMALL = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}


@pytest.fixture
def made(tmp_path):
    """Options with two teachers, and their training data."""
    write_textures(tmp_path / "hr", 9, 32, 40)
    data = dataset_options(dataroot_gt=str(tmp_path / "hr"), gt_size=16, degradation="BI", scale=2)
    opt = {"scale": 2, "network_g": SMALL, "path": {}}
    for seed, key in enumerate(("t", "t2")):
        torch.manual_seed(seed)
        opt[f"network_{key}"], opt["path"][f"pretrain_network_{key}"] = SMALL, str(tmp_path / f"{key}.pth")
        save_tensors({"params": make_network(SMALL).state_dict()}, tmp_path / f"{key}.pth")
    return opt, open_dataset(data, "datasets.train")


def by_hand(dataset, restore):
    """PSNR on luma by its formula, over every second image."""
    values = []
    for view in dataset.teacher_views(1, False)[::2]:
        low, high = (frames[0] for frames in dataset.pairs.read(list(view.frames), list(view.gt), None))
        with torch.no_grad():
            sr = restore(torch.from_numpy(low / np.float32(255)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        y = [np.round(x.clip(0, 1) * 255) @ [65.481, 128.553, 24.966] / 255 for x in (sr, high / np.float32(255))]
        error = (y[0] - y[1])[2:-2, 2:-2]
        values.append(10 * np.log10(255**2 / (error**2).mean()))
    return np.mean(values)


def test_each_form_by_hand(made):
    opt, dataset = made
    own = measure_own_psnr(make_options({**opt, "teacher": {"self_ensemble": True}}), dataset)
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(make_network(SMALL).eval())

    def mean(x):
        return (nets[0](x) + nets[1](x)) / 2

    def turned(x):
        views = [(turns, flip) for turns in range(4) for flip in (False, True)]
        whole = []
        for turns, flip in views:
            sr = mean(torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1)))
            back = torch.rot90(sr, -turns, (-2, -1))
            whole.append(back.flip(-1) if flip else back)
        return torch.stack(whole).mean(0)

    forms = {"network_t": nets[0], "network_t2": nets[1], "their mean": mean, "x8 self-ensemble": turned}
    assert own.images == 5 and list(own.forms) == list(forms)
    for name, restore in forms.items():
        assert own.forms[name] == pytest.approx(by_hand(dataset, restore), abs=0.01)


def test_one_network_has_no_gain_to_tell(made):
    opt, dataset = made
    opt.pop("network_t2"), opt["path"].pop("pretrain_network_t2")
    assert measure_own_psnr(make_options(opt), dataset) is None
    assert measure_own_psnr(make_options({**opt, "teacher": {"self_ensemble": True}}), dataset).forms.keys() == {
        "network_t", "x8 self-ensemble",
    }  # fmt: skip


def test_what_it_says():
    own = OwnPsnr(8, 4, {"network_t": 30.0, "network_t2": 31.0, "their mean": 31.25})
    assert "on 8 training images (Y, crop 4)" in str(own) and "+0.25 dB over the best single network" in str(own)
