"""Stored optical flow: exact against the flow of whole frames, in every crop, flip and direction."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.archs.vsrnet_arch import VSRNet
from kdsr_arch.cli import main
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.flow_store import FlowStore, packed_flow, turned_flow
from kdsr_arch.data.loader import open_dataset, train_batches
from kdsr_arch.data.window import Window
from kdsr_arch.engine.flow_cache import beside_the_clips, fill_flow_store
from kdsr_arch.errors import UserError
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.options import load_options
from kdsr_arch.train.distill_model import VideoDistillModel

STUDENT = {"type": "VSRNet", "num_frame": 3, "num_feat": 4, "num_mid_feat": 4}
PLAIN = (False, False, False)
FLIPS = [(h, v, t) for h in (False, True) for v in (False, True) for t in (False, True)]


@pytest.fixture
def option_file(frames, tmp_path, save):
    """Options that train a tiny VSRNet on two clips of 112x128."""
    for index, frame in enumerate(frames[:10]):
        save(tmp_path / "hr" / f"{index // 5:03d}" / f"{index % 5:08d}.png", frame[:112, :128])
    opt = {
        "name": "flow", "model_type": "VideoDistillModel", "scale": 4, "num_gpu": 0, "manual_seed": 0,
        "datasets": {"train": {
            "name": "clips", "type": "ClipDataset", "dataroot_gt": str(tmp_path / "hr"), "gt_size": 48,
            "clip_length": 2, "num_frame": 5, "random_reverse": True, "use_hflip": True, "use_rot": True,
            "interval_list": [1, 2], "num_worker_per_gpu": 0, "batch_size_per_gpu": 4}},
        "network_g": dict(STUDENT),
        "train": {"total_iter": 4, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
    }  # fmt: skip
    (tmp_path / "opt.yml").write_text(yaml.safe_dump(opt))
    return tmp_path / "opt.yml"


def loaded(file, **train):
    opt = load_options(file, is_train=True)
    opt["datasets"]["train"].update(train)
    return opt


@pytest.fixture
def store(option_file):
    opt = loaded(option_file)
    fill_flow_store(opt, beside_the_clips(opt))
    return str(beside_the_clips(opt))


def dataset_of(file, store, **changes) -> ClipDataset:
    return open_dataset(loaded(file, flow_cache=store, **changes)["datasets"]["train"], "train")


def dataset_pairs(dataset):
    return {(clip.name, pair) for clip in dataset.clips for pair in dataset.flow_places(clip, 3)}


def live_flow(lq, centre, neighbour):
    """The flow that the network itself estimates between two LR frames (3, h, w)."""
    large = [upsample_bicubic(rgb_to_y(frame[None]), 4) for frame in (lq[centre], lq[neighbour])]
    return VSRNet(**{k: v for k, v in STUDENT.items() if k != "type"}).compensate.flow(*large)[0].numpy()


def test_whole_frames_get_the_flow_that_the_network_estimates(option_file, store):
    dataset = dataset_of(option_file, store, gt_size=None, use_hflip=False, use_rot=False)
    moved = []
    for index in range(len(dataset)):
        item = dataset.sample(index, np.random.default_rng(index))
        assert item["flow"].shape == (2, 2, 2, 112, 128)
        for window in range(2):
            for slot, neighbour in enumerate((window + 1, window + 3)):  # the data set's windows are of 5
                live = live_flow(item["lq"], window + 2, neighbour)
                assert np.abs(item["flow"][window, slot].numpy() - live).max() < 2**-7
                moved.append(np.abs(live).max())
    assert max(moved) > 1
    quarters = len(dataset_pairs(dataset)) * 2 * 28 * 32 * 2  # float16 of a quarter of 112x128
    assert quarters < (Path(store) / "data.mdb").stat().st_size < 2 * quarters


def test_crops_are_those_of_the_whole_flow(option_file, store):
    reader, keys = FlowStore(store), ("000/00000001", "000/00000002")
    whole = reader.read([keys], (112, 128), Window(0, 0, 112, 128), PLAIN)[0]
    assert np.abs(whole).max() > 0.1
    for window in (Window(0, 0, 48, 48), Window(64, 80, 48, 48), Window(4, 12, 16, 20), Window(3, 5, 7, 9)):
        np.testing.assert_array_equal(
            reader.read([keys], (112, 128), window, PLAIN)[0], window.of(whole.transpose(1, 2, 0)).transpose(2, 0, 1)
        )


def test_one_turned_by_hand():
    """A pixel that moves 3 right and 1 down, at row 0, column 2 of a 2x3 frame."""
    flow = np.zeros((2, 2, 3), np.float32)
    flow[:, 0, 2] = 3, 1
    for flip, place, moved in [
        (PLAIN, (0, 2), (3, 1)),
        ((True, False, False), (0, 0), (-3, 1)),
        ((False, True, False), (1, 2), (3, -1)),
        ((False, False, True), (2, 0), (1, 3)),
        ((True, True, True), (0, 1), (-1, -3)),
    ]:
        turned = turned_flow(flow, flip)
        assert tuple(turned[:, place[0], place[1]]) == moved and np.count_nonzero(turned) == 2, flip


@pytest.mark.parametrize("flip", FLIPS, ids=str)
def test_a_turned_flow_warps_turned_frames(flip):
    """Warping and turning change places: what is compensated is the same picture."""
    from kdsr_arch.data.store.teacher_store import apply_flip
    from kdsr_arch.ops.warp import backward_warp

    rng = np.random.default_rng(0)
    frame = torch.from_numpy(rng.random((1, 1, 10, 14), np.float32))
    flow = torch.from_numpy(rng.integers(-3, 4, (1, 2, 10, 14)).astype(np.float32))
    first = apply_flip(backward_warp(frame, flow, border="border"), flip)
    turned = torch.from_numpy(np.ascontiguousarray(turned_flow(flow.numpy(), flip)))
    torch.testing.assert_close(backward_warp(apply_flip(frame, flip), turned, border="border"), first)


def test_reversed_and_turned_samples_get_the_flow_of_their_frames(option_file, store):
    """Along a sample's own flow each neighbour meets its centre, however the sample is turned."""
    from kdsr_arch.ops.warp import backward_warp

    dataset = dataset_of(option_file, store)
    better = []
    for index in range(24):
        item = dataset.sample(index % len(dataset), np.random.default_rng(index))
        large = upsample_bicubic(item["lq"], 4)
        for window in range(2):
            centre = large[window + 2]
            for slot, neighbour in enumerate((window + 1, window + 3)):
                warped = backward_warp(large[neighbour][None], item["flow"][window, slot][None], border="border")[0]
                inner = (slice(None), slice(8, -8), slice(8, -8))
                before, after = ((x - centre)[inner].abs().mean().item() for x in (large[neighbour], warped))
                better.append((before, after))
    before, after = np.array(better).mean(0)
    assert after < 0.8 * before


def test_a_quarter_is_kept_only_where_it_gives_the_flow_back():
    rng = np.random.default_rng(0)
    coarse = (rng.integers(-64, 65, (2, 8, 9)) / 16).astype(np.float32)
    large = np.stack([cv2.resize(plane, (36, 32), interpolation=cv2.INTER_LINEAR) for plane in coarse])
    np.testing.assert_array_equal(packed_flow(large), coarse.astype(np.float16))
    fine = rng.random((2, 32, 36)).astype(np.float32)
    np.testing.assert_array_equal(packed_flow(fine), fine.astype(np.float16))
    assert packed_flow(fine[:, :31]).shape == (2, 31, 36)


def train_steps(opt, data, accumulation=1):
    torch.manual_seed(0)
    data = {**data, "train": {**data["train"], "accumulation": accumulation}}
    batches = train_batches(data, open_dataset(data["datasets"]["train"], "train"), 0)
    model = VideoDistillModel({**opt, "train": {**opt["train"], "accumulation": accumulation}})
    model.prepare(batches.peek())
    model.feed_data(next(batches))
    model.optimize_parameters(1)
    return model.get_current_log()["l_pix"]


def test_training_uses_the_stored_flow_and_not_its_own(option_file, store, monkeypatch):
    """On whole frames the loss is that of live flow; nothing is estimated, in micro-batches neither."""
    from kdsr_arch.archs import optical_flow

    whole = {"gt_size": None, "use_hflip": False, "use_rot": False}
    live = loaded(option_file, **whole)
    stored = loaded(option_file, flow_cache=store, **whole)
    expected, expected_in_parts = train_steps(live, live), train_steps(live, live, 2)
    estimated = []
    monkeypatch.setattr(optical_flow, "_dis_flow", lambda *frames: estimated.append(frames))
    assert train_steps(stored, stored) == pytest.approx(expected, rel=1e-4)
    assert train_steps(stored, stored, 2) == pytest.approx(expected_in_parts, rel=1e-4)
    assert not estimated


def test_spynet_flow_is_kept_whole(option_file, tmp_path):
    from basicsr.archs.spynet_arch import SpyNet

    torch.manual_seed(0)
    torch.save({"params": SpyNet().state_dict()}, tmp_path / "spynet.pth")
    opt = loaded(option_file, clips=["000"], gt_size=None, use_hflip=False, use_rot=False)
    opt["network_g"] |= {"flow": "spynet", "spynet_path": str(tmp_path / "spynet.pth")}
    fill_flow_store(opt, tmp_path / "spy.lmdb")
    opt["datasets"]["train"]["flow_cache"] = str(tmp_path / "spy.lmdb")
    item = open_dataset(opt["datasets"]["train"], "train").sample(0, np.random.default_rng(0))
    net = VSRNet(**{k: v for k, v in opt["network_g"].items() if k != "type"})
    large = upsample_bicubic(rgb_to_y(item["lq"]), 4)
    live = net.compensate.flow(large[2:3], large[3:4])[0]
    torch.testing.assert_close(item["flow"][0, 1], live, atol=2**-7, rtol=1e-3)
    torch.save({"params": SpyNet().state_dict()}, tmp_path / "spynet.pth")  # other weights, other flow
    with pytest.raises(UserError, match="holds flow of method spynet .* wants spynet"):
        VideoDistillModel(opt)


def test_the_command_goes_on_and_says_what_to_set(option_file, capsys, monkeypatch):
    from kdsr_arch.engine import flow_cache

    real, seen = flow_cache._flows, []

    def breaking(dataset, clip, *rest):
        if clip.name == "001" and not seen:
            seen.append(clip.name)
            raise UserError("the power failed")
        yield from real(dataset, clip, *rest)

    monkeypatch.setattr(flow_cache, "_flows", breaking)
    path = beside_the_clips(loaded(option_file))
    assert path.name == "hr_flow_x4.lmdb"
    assert main(["cache-flow", "-opt", str(option_file)]) == 2
    assert "the power failed" in capsys.readouterr().err and not path.exists()
    assert main(["cache-flow", "-opt", str(option_file)]) == 0
    said = capsys.readouterr().out
    assert "KiB a frame" in said and f"flow_cache: {path}" in said
    info = json.loads((path / "flow.json").read_text())
    assert info == {"scale": 4, "degradation": "BI symmetric", "method": "dis", "num_frame": 3}
    assert main(["cache-flow", "-opt", str(option_file)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "network", "sentence"),
    [
        ({"degradation": "BD"}, {}, "made for degradation BI symmetric, but the data set's is BD"),
        ({"interval_list": [1, 3]}, {}, "holds no flow from '000/0000000[0-9]' to '000/0000000[0-9]'; make it again"),
        ({}, {"num_frame": 5}, "holds flow of num_frame 3, but network_g VSRNet wants 5"),
        ({}, {"flow": "none"}, "network_g VSRNet takes no optical flow; take flow_cache out"),
        ({"phase": "val"}, {}, "flow_cache is for training"),
        ({"num_frame": 1}, {}, "made for windows of 3, but the data set's num_frame is 1"),
    ],
)
def test_a_store_of_something_else_is_refused(option_file, store, changes, network, sentence):
    opt = loaded(option_file, flow_cache=store, **changes)
    opt["network_g"] |= network
    with pytest.raises(UserError, match=sentence):
        open_dataset(opt["datasets"]["train"], "train")
        VideoDistillModel(opt)


def test_what_cannot_be_stored(option_file, tmp_path):
    opt = loaded(option_file)
    with pytest.raises(UserError, match="no store of optical flow"):
        FlowStore(tmp_path)
    with pytest.raises(UserError, match="MSRResNet estimates no optical flow"):
        fill_flow_store({**opt, "network_g": {"type": "MSRResNet"}}, tmp_path / "a.lmdb")
    with pytest.raises(UserError, match="windows of 7, but datasets.train.num_frame is 5"):
        fill_flow_store({**opt, "network_g": {**STUDENT, "num_frame": 7}}, tmp_path / "a.lmdb")
    with pytest.raises(UserError, match="must end in .lmdb"):
        fill_flow_store(opt, tmp_path / "a")
    assert not (tmp_path / "a.lmdb").exists()
