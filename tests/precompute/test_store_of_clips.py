"""A stored teacher of windows teaches clips as the live one does: at their ends, backwards, at every interval."""

import cv2
import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.data.clip_dataset import Clip, clip_views
from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.store.teacher_store import OUTPUT, TeacherStore, view_key
from kdsr_arch.distill.teachers import build_teacher
from kdsr_arch.io import save_tensors
from kdsr_arch.options import load_options
from kdsr_arch.precompute import fill as teacher_cache
from kdsr_arch.precompute.fill import LiveTrainer, fill_store, plan_of
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
REACH = 4 * 5 + 2  # HR pixels that it looks at beyond its own: five layers at LR size, two at HR size


@pytest.fixture
def options(tmp_path, num_gpu):
    """Makes an option file that distils from a teacher into a small VESPCN on two moving clips."""
    for clip in range(2):
        (tmp_path / f"hr/{clip}").mkdir(parents=True)
        noise = np.random.default_rng(clip).integers(0, 256, (14, 20, 3), np.uint8)
        big = cv2.resize(noise, (180, 130), interpolation=cv2.INTER_CUBIC)
        for frame in range(5):
            top, left = 2 * frame, 3 * frame
            cv2.imwrite(str(tmp_path / f"hr/{clip}/{frame}.png"), big[top : top + 112, left : left + 128])

    def make(teacher, **train):
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


def stored(file, path, crops=0, one=False, taps=None):
    opt = load_options(file, is_train=True)
    fill_store(opt, path, plan_of(opt, taps, crops, one))
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
    assert view_key("a/2", [0, 2, 3]) == "a/2~-2,0,1" and view_key("a/2", [2]) == "a/2"
    views = list(clip_views(clip, 3, 1, [1], reverse=True))
    assert [view.key for view in views[:4]] == ["a/0~0,0,1", "a/0~1,0,0", "a/1~-1,0,1", "a/1~1,0,-1"]
    assert views[1].frames == ("a/1", "a/0", "a/0") and len({view.key for view in views}) == len(views) == 8
    assert len(list(clip_views(clip, 1, 2, [1, 2], reverse=True))) == 4
    # two frames three apart begin at 0 only: the frames between are in no sample of that interval
    assert [view.key for view in clip_views(clip, 3, 2, [3], reverse=False)] == ["a/0~0,0,3", "a/3~-3,0,0"]


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
    losses, adapters = {}, None
    for name, kind in (("stored", Trainer), ("live", LiveTrainer)):
        trainer = kind(opt)
        task = trainer.model.task
        adapters = adapters or task.train_only_state()  # the live teacher's start drew other random numbers
        task.load_train_only_state(adapters)
        trainer.step(1)
        losses[name] = trainer.figures()
    for name in ("l_out", "l_map", "l_memory", "l_pix"):
        assert losses["stored"][name] == pytest.approx(losses["live"][name], rel=1e-3), name


def test_one_orientation_serves_reversed_samples_with_the_forward_output(options, tmp_path):
    opt = stored(options(NEAR), tmp_path / "store.lmdb", one=True, taps=[])
    store, dataset = TeacherStore(tmp_path / "store.lmdb"), opened(opt)
    assert not store.backwards and store.orientations == [0]
    keys, flip = dataset.selected[0].gt, (False, False, False)
    forward = store.read_clip("0", keys, [1, 2], [0, 1, 2, 3], None, flip)[OUTPUT]
    backward = store.read_clip("0", keys, [2, 1], [3, 2, 1, 0], None, flip)[OUTPUT]
    assert torch.equal(forward, backward.flip(0))


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
    recurrent = {"type": "BasicVSR", "num_feat": 4, "num_block": 1}
    with refuses("cache-teacher", "recurrent"):
        stored(options(recurrent), tmp_path / "recurrent.lmdb", taps=[])
