"""A stored teacher of clips teaches as the live one does: at their ends, backwards, at every interval."""

import cv2
import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.cli import main
from kdsr_arch.data.augment import Crop, to_tensor
from kdsr_arch.data.clip_dataset import Clip, clip_views
from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.store.teacher_store import OUTPUT, TeacherStore
from kdsr_arch.data.teacher_views import run_around, run_key, window_key, window_keys
from kdsr_arch.distill.teachers import build_teacher
from kdsr_arch.infer.pixels import to_bgr
from kdsr_arch.io import save_tensors
from kdsr_arch.metrics.psnr_metric import psnr
from kdsr_arch.options import load_options
from kdsr_arch.precompute import fill as teacher_cache
from kdsr_arch.precompute.fill import LiveTrainer, fill_store, plan_of
from kdsr_arch.precompute.own_psnr import measure_own_psnr
from kdsr_arch.train.trainer import Trainer
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network

EDVR = {
    "type": "EDVRSlim",
    "num_feat": 8,
    "num_hr_feat": 4,
    "num_frame": 3,
    "deformable_groups": 2,
    "num_extract_block": 1,
    "num_reconstruct_block": 1,
}
NEAR = {"type": "VESPCN", "num_feat": 4, "num_hr_feat": 4, "num_block": 1, "motion": False}  # reaches few pixels
RECURRENT = {"type": "BasicVSR", "num_feat": 8, "num_block": 1}
WIDE = {"size": (144, 152), "gt_size": 136, "clip_length": 2, "use_rot": False}  # it takes 33 LR pixels
REACH = 4 * 5 + 2  # HR pixels that it looks at beyond its own: five layers at LR size, two at HR size


@pytest.fixture
def options(tmp_path, num_gpu):
    """Makes an option file that distils from a teacher into a small VESPCN on two moving clips."""

    def draw(size):
        for clip in range(2):
            (tmp_path / f"hr/{clip}").mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(clip).integers(0, 256, (14, 20, 3), np.uint8)
            big = cv2.resize(noise, (size[1] + 52, size[0] + 18), interpolation=cv2.INTER_CUBIC)
            for frame in range(5):
                top, left = 2 * frame, 3 * frame
                shown = big[top : top + size[0], left : left + size[1]]
                cv2.imwrite(str(tmp_path / f"hr/{clip}/{frame}.png"), shown)

    def make(teacher, size=(112, 128), **train):
        draw(size)
        torch.manual_seed(3)
        net = make_network(teacher)
        state = {key: value + 0.05 * torch.randn_like(value) for key, value in net.state_dict().items()}
        save_tensors({"params": state}, tmp_path / "teacher.pth")
        data = {
            "name": "noise",
            "type": "ClipDataset",
            "dataroot_gt": str(tmp_path / "hr"),
            "gt_size": 32,
            "clip_length": 2,
            "num_frame": 3,
            "interval_list": [1, 2],
            "random_reverse": True,
            "use_hflip": True,
            "use_rot": True,
            "num_worker_per_gpu": 0,
            "batch_size_per_gpu": 3,
            **train,
        }
        opt = {
            'name': 'cached', 'model_type': 'VideoDistillModel', 'scale': 4, 'num_gpu': num_gpu,
            'datasets': {'train': data},
            'network_g': {'type': 'VESPCN', 'num_feat': 4, 'num_hr_feat': 4, 'num_block': 1, 'num_flow_feat': 4},
            'network_t': dict(teacher), 'path': {'pretrain_network_t': str(tmp_path / 'teacher.pth')},
            'train': {'total_iter': 4, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'},
                      'distill_opt': {'out': {'type': 'L1Loss'},
                                      'map': {'type': 'SpatialAttentionLoss', 'at': 'f_sr', 'map': 'sum_square'},
                                      'memory': {'type': 'TemporalMemoryLoss', 'at': 'f_sr', 'lstm': 'frozen'}}},
        }  # fmt: skip
        (tmp_path / "opt.yml").write_text(yaml.safe_dump(opt))
        return tmp_path / "opt.yml"

    return make


def stored(file, path, crops=0, one=False, taps=None, frames=0, pool=1):
    opt = load_options(file, is_train=True)
    fill_store(opt, path, plan_of(opt, taps, crops, one, frames, pool))
    opt.datasets["train"].teacher_cache = str(path)
    return opt


def opened(opt, **changes):
    return open_dataset(opt.datasets["train"].model_copy(update=changes), "datasets.train")


def live_features(teacher, lq, count):
    """(output, f_sr) of the windows of three frames of one sample."""
    seen = []
    handle = teacher.get_submodule(teacher.traits.taps["f_sr"]).register_forward_hook(
        lambda module, args, out: seen.append(out.clone())
    )
    with torch.no_grad():
        out = teacher(torch.stack([lq[i : i + 3] for i in range(count)]))
    handle.remove()
    return out, seen[0]


def test_windows_of_a_clip_are_named_once_by_what_they_show():
    clip = Clip("a", tuple(f"a/{i}" for i in range(4)), {i: f"a/{i}" for i in range(4)})
    assert window_key("a/2", [0, 2, 3]) == "a/2~-2,0,1" and window_key("a/2", [2]) == "a/2"
    views = list(clip_views(clip, 3, 1, [1], reverse=True))
    assert [view.keys for view in views[:3]] == [("a/0~0,0,1",), ("a/0~1,0,0",), ("a/1~-1,0,1",)]
    assert views[1].frames == ("a/1", "a/0", "a/0") and len({view.keys for view in views}) == len(views) == 8
    assert views[2].gt == ("a/1",)
    assert len(list(clip_views(clip, 1, 2, [1, 2], reverse=True))) == 4
    # two frames three apart begin at 0 only: the frames between are in no sample of that interval
    assert [view.keys for view in clip_views(clip, 3, 2, [3], reverse=False)] == [("a/0~0,0,3",), ("a/3~-3,0,0",)]


def test_a_sample_lies_in_one_run_or_in_none():
    assert [run_around(start, 2, 1, 7, 3) for start in range(7)] == [
        range(0, 3), range(0, 3), None, range(3, 6), range(3, 6), None, None,
    ]  # fmt: skip
    assert run_around(1, 2, 2, 7, 3) == run_around(3, 2, 2, 7, 3) == range(1, 7, 2)
    assert run_around(2, 2, 2, 7, 3) == range(0, 6, 2) and run_around(4, 2, 2, 7, 3) is None
    assert run_around(0, 2, 1, 2, 5) == range(0, 2), "a short clip is one run"
    assert run_key("a/4", 4, range(3, 6)) == "a/4~-1:1/3" and run_key("a/4", 4, range(5, 2, -1)) == "a/4~1:-1/3"


def test_every_sample_of_whole_frames_is_the_live_teachers_away_from_its_border(options, tmp_path):
    opt = stored(options(NEAR, gt_size=64, use_rot=False), tmp_path / "store.lmdb")
    teacher, dataset = build_teacher(opt).eval(), opened(opt)
    inner = (..., slice(REACH, -REACH), slice(REACH, -REACH))
    for number in range(len(dataset)):
        item = dataset.sample(number, np.random.default_rng(number))
        assert item["teacher"][OUTPUT].shape == (2, 3, 64, 64) and item["teacher"][OUTPUT].dtype == torch.float16
        for stored_output, live in zip(
            (item["teacher"][OUTPUT], item["teacher"]["upsampler"]), live_features(teacher, item["lq"], 2), strict=True
        ):
            apart = (stored_output.float() - live)[inner].abs().max()
            assert apart < 1e-3 * live.abs().max()


def test_crops_restored_alone_give_the_live_loss(options, tmp_path):
    file = options(EDVR, interval_list=[1], use_rot=False)
    opt = stored(file, tmp_path / "store.lmdb", crops=1)
    losses = {}
    for name, kind in (("stored", Trainer), ("live", LiveTrainer)):
        trainer = kind(opt)
        trainer.step(1)
        losses[name] = trainer.figures()
    for name in ("l_out", "l_map", "l_memory", "l_pix"):
        assert losses["stored"][name] == pytest.approx(losses["live"][name], rel=1e-3), name


def test_one_orientation_serves_reversed_samples_with_the_forward_output(options, tmp_path):
    opt = stored(options(NEAR), tmp_path / "store.lmdb", one=True, taps=[])
    store, dataset = TeacherStore(tmp_path / "store.lmdb"), opened(opt)
    assert not store.backwards and store.orientations == [0]
    gt = dataset.selected[0].gt

    def read(gt_places, lq_places):
        keys = window_keys(gt, gt_places, lq_places, store.num_frame, store.backwards)
        return store.read_clip("0", keys, None, (False, False, False))[OUTPUT]

    assert torch.equal(read([1, 2], [0, 1, 2, 3]), read([2, 1], [3, 2, 1, 0]).flip(0))


def test_a_teacher_of_images_restores_each_frame_once(options, tmp_path):
    teacher = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 4}
    opt = stored(options(teacher, gt_size=64), tmp_path / "store.lmdb", one=True, taps=[])
    dataset = opened(opt)
    assert len(dataset.teacher_views(1, True)) == 10
    assert dataset.sample(0, np.random.default_rng(0))["teacher"][OUTPUT].shape == (2, 3, 64, 64)


def test_what_cannot_be_stored_or_read_is_told(options, tmp_path, monkeypatch):
    opt = stored(options(NEAR, use_rot=False, use_hflip=False), tmp_path / "store.lmdb", taps=[])
    with refuses("datasets.train", "store.lmdb", "'0/0~0,0,3'", "interval_list", "clip_length"):
        opened(opt, interval_list=[1, 2, 3])
    with refuses("datasets.train", "store.lmdb", 3, "num_frame"):
        opened(opt, num_frame=1)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 20}))
    file = options(NEAR)  # 2 clips of 5 frames, 2 intervals, 2 directions
    with refuses("big.lmdb", 39, "8 orientations", "output 3x112x128", "upsampler 4x112x128", "--taps", "--crops N"):
        stored(file, tmp_path / "big.lmdb")
    assert not (tmp_path / "big.lmdb").exists()
    with refuses("cache-teacher", "--frames", "VESPCN"):
        stored(options(NEAR), tmp_path / "other.lmdb", taps=[], frames=5)


# -------------------------------------------------------------------------------------------------- recurrent teachers


def clip_features(teacher, lq):
    """(output, f_sr) of a clip (T, C, h, w), each (T, C, H, W)."""
    seen = []
    handle = teacher.conv_hr.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    with torch.no_grad():
        out = teacher(lq[None])[0]
    handle.remove()
    return out, torch.cat(seen)


def close(stored_maps, live):
    assert stored_maps.dtype == torch.float16 and stored_maps.shape == live.shape
    assert (stored_maps.float() - live).abs().max() < 1e-3 * live.abs().max()


@pytest.mark.slow
def test_a_recurrent_teachers_store_is_what_it_makes_of_the_samples_clip(options, tmp_path):
    opt = stored(options(RECURRENT, **WIDE), tmp_path / "store.lmdb", crops=1, pool=4)
    teacher, dataset = build_teacher(opt).eval(), opened(opt)
    assert dataset.entries == [(clip, start) for clip in (0, 1) for start in (0, 1, 2)]  # runs 0-1, 2-3; 0-2, 1-3
    seen = set()
    for number in range(24):
        item = dataset.sample(number % len(dataset), np.random.default_rng(number))
        output, feature = clip_features(teacher, item["lq"][1:-1])
        close(item["teacher"][OUTPUT], output)
        close(item["teacher"]["conv_hr"], torch.nn.functional.avg_pool2d(feature, 4))
        seen.add(item["key"])
    assert seen == {f"{clip}/{frame}" for clip in (0, 1) for frame in (0, 1, 2, 3)}  # 3: played backwards


@pytest.mark.slow
def test_samples_of_a_longer_run_are_taught_by_all_of_it(options, tmp_path):
    opt = stored(options(RECURRENT, **WIDE, interval_list=[1]), tmp_path / "store.lmdb", crops=2, frames=4, taps=[])
    teacher, dataset, store = build_teacher(opt).eval(), opened(opt), TeacherStore(tmp_path / "store.lmdb")
    assert dataset.entries == [(clip, start) for clip in (0, 1) for start in (0, 1, 2)] and store.run == 4
    views = dataset.teacher_views(1, True, 4)
    assert [view.frames for view in views[:2]] == [tuple(f"0/{i}" for i in order) for order in (range(4), (3, 2, 1, 0))]
    for view in views:
        for crop in store.crops[view.group]:
            lq = to_tensor(dataset.pairs.read(view.frames, [], Crop(*crop))[0])
            made = store.read_clip(view.group, view.keys, Crop(*crop), (False, False, False))[OUTPUT]
            close(made, clip_features(teacher, lq)[0])
    item = dataset.sample(1, np.random.default_rng(0))
    alone = clip_features(teacher, item["lq"][1:-1])[0]
    assert (item["teacher"][OUTPUT].float() - alone).abs().max() > 1e-2 * alone.abs().max(), "it has seen more frames"


@pytest.mark.slow
def test_a_stored_recurrent_teacher_gives_the_live_loss(options, tmp_path, capsys):
    file, store = options(RECURRENT, **WIDE, interval_list=[1]), tmp_path / "store.lmdb"
    document = yaml.safe_load(file.read_text())
    document["train"]["distill_opt"]["map"]["downsample"] = 2
    document["train"]["distill_opt"]["memory"]["downsample"] = 4
    file.write_text(yaml.safe_dump(document))
    assert main(["cache-teacher", "-opt", str(file), "-o", str(store), "--crops", "1", "--pool", "2"]) == 0
    assert (
        "clips of 2 frames, shorter ones whole: at both ends the teacher has seen frames on one side only"
        in capsys.readouterr().out
    )
    opt, losses = load_options(file, is_train=True), {}
    opt.datasets["train"].teacher_cache = str(store)
    for name, kind in (("stored", Trainer), ("live", LiveTrainer)):
        trainer = kind(opt)
        trainer.step(1)
        losses[name] = trainer.figures()
    assert {"l_out", "l_map", "l_memory"} <= set(losses["live"])
    assert losses["stored"] == pytest.approx(losses["live"], rel=1e-3)
    opt.train.distill_opt["map"].downsample = 3
    with refuses("train.distill_opt.map.downsample", "store.lmdb", "conv_hr", "2x2", "--pool"):
        Trainer(opt)


@pytest.mark.parametrize("teacher,given,frames", [(NEAR, {}, 1), (RECURRENT, WIDE, 2)], ids=["windows", "runs"])
def test_the_own_psnr_of_two_teachers_of_clips_is_that_of_the_frames_they_restore(options, teacher, given, frames):
    file = options(teacher, **given, interval_list=[1], random_reverse=False)
    net, document = build_teacher(load_options(file, is_train=True)).eval(), yaml.safe_load(file.read_text())
    document["network_t2"] = document["network_t"]
    document["path"]["pretrain_network_t2"] = document["path"]["pretrain_network_t"]
    file.write_text(yaml.safe_dump(document))
    opt = load_options(file, is_train=True)
    dataset, values = opened(opt), []
    own = measure_own_psnr(opt, dataset)
    views = dataset.teacher_views(3, False) if teacher is NEAR else dataset.teacher_views(1, False, frames)
    for view in views[:: -(-len(views) // 8)]:
        lq, gt = (to_tensor(images) for images in dataset.pairs.read(view.frames, view.gt, None))
        with torch.no_grad():
            sr = net(lq[None])
        assert len(gt) == frames
        each = zip(sr[0] if frames > 1 else sr, gt, strict=True)
        values.append(np.mean([psnr(to_bgr(a), to_bgr(b), 4, test_y_channel=True) for a, b in each]))
    assert own.forms == pytest.approx(dict.fromkeys(own.forms, np.mean(values)), abs=0.01)


def test_runs_that_do_not_fit_the_samples_are_told(options, tmp_path):
    with refuses("--frames 1", "clip_length", 2):
        stored(options(RECURRENT, **WIDE), tmp_path / "short.lmdb", frames=1)
    opt = stored(options(RECURRENT, **WIDE), tmp_path / "store.lmdb", crops=1, taps=[])
    with refuses("datasets.train", "store.lmdb", 2, "clip_length"):
        opened(opt, clip_length=3)
