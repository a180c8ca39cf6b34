"""LR made for a batch is, bit for bit, the LR that workers make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.degraded import CONTEXT, widened_evenly
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.loader import train_batches
from kdsr_arch.data.mix_dataset import MixDataset
from kdsr_arch.data.store.codec import Window
from kdsr_arch.errors import UserError

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
AUGMENTED = {"phase": "train", "use_hflip": True, "use_rot": True, "cache": False}
CLIPS = {**AUGMENTED, "clip_length": 2, "num_frame": 3, "random_reverse": True}


def compare(kind, opt: dict, device: str, count: int = 24) -> None:
    """Crops lie anywhere, at the frame's borders too, under all eight flips."""
    made, left = kind(opt), kind({**opt, "degrade_on": "device"})
    for start in range(0, count, 4):
        numbers = [i % len(made) for i in range(start, start + 4)]
        wanted = default_collate([made.sample(n, np.random.default_rng(start + n)) for n in numbers])
        batch = default_collate([left.sample(n, np.random.default_rng(start + n)) for n in numbers])
        found = left.on_device(batch, torch.device(device))
        assert found.keys() == wanted.keys() and found["key"] == wanted["key"]
        for side in ("lq", "gt"):
            assert found[side].device.type == device
            if opt.get("color") == "y" and device == "cuda":
                torch.testing.assert_close(found[side].cpu(), wanted[side], rtol=0, atol=1e-6)
            else:
                assert torch.equal(found[side].cpu(), wanted[side])


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("extra", [{"scale": 4}, {"scale": 2, "border": "replicate", "color": "y"}, {"scale": 3}])
def test_clips_and_images(clip_root, extra, device):
    side = 2 * extra["scale"]  # LR of 2x2 to leave room for the context in the smallest frames
    opt = {"dataroot_gt": str(clip_root), "gt_size": side, **extra}
    compare(ClipDataset, {**CLIPS, **opt}, device)
    compare(ImagePairDataset, {**AUGMENTED, **opt}, device)


def test_cached_frames_and_stores(clip_root, clip_lmdb):
    for root, cache in ((clip_root, True), (clip_lmdb, "auto"), (clip_lmdb, False)):
        compare(ClipDataset, {**CLIPS, "dataroot_gt": str(root), "gt_size": 8, "scale": 4, "cache": cache}, "cpu", 8)


def test_windows_of_one_size_keep_their_context():
    for top in range(21):
        wide = widened_evenly(Window(top, 3, 10, 10), 30, 18)
        assert (wide.height, wide.width, wide.left) == (18, 18, 0)
        assert wide.top == 0 or top - wide.top >= CONTEXT
        assert wide.top + 18 == 30 or wide.top + 18 - top - 10 >= CONTEXT


def test_training_batches(clip_root):
    data = {**CLIPS, "dataroot_gt": str(clip_root), "gt_size": 16, "scale": 4, "batch_size_per_gpu": 3}
    found = []
    for where in ("worker", "device"):
        parts = {**data, "datasets": [{"type": "ClipDataset"}, {"type": "ClipDataset"}], "degrade_on": where}
        opt = {"train": {"total_iter": 3, "accumulation": 2}, "manual_seed": 0}
        opt["datasets"] = {"train": {**data, "num_worker_per_gpu": 1}}
        batches = train_batches(opt, MixDataset(parts), 0)
        found.append([(b["lq"], b["gt"], b["key"]) for b in batches])
    for (lq, gt, key), (lq2, gt2, key2) in zip(*found, strict=True):
        assert lq.shape == (6, 4, 3, 4, 4) and key == key2
        assert torch.equal(lq, lq2) and torch.equal(gt, gt2)


def test_refusals(clip_root):
    opt = {**CLIPS, "dataroot_gt": str(clip_root), "gt_size": 8, "scale": 4, "degrade_on": "device"}
    for wrong, sentence in (
        ({"gt_size": 32}, "needs 16x16 at this gt_size"),
        ({"degradation": "BD"}, "needs degradation 'BI'"),
        ({"gt_size": 0}, "and a gt_size"),
        ({"dataroot_lq": str(clip_root)}, "keeps it; leave degrade_on out"),
        ({"degrade_on": "gpu"}, "'gpu' is unknown"),
    ):
        with pytest.raises(UserError, match=sentence):
            ClipDataset({**opt, **wrong})
    mixed = [{"type": "ClipDataset"}, {"type": "ClipDataset", "border": "replicate"}]
    with pytest.raises(UserError, match="must agree"):
        MixDataset({**opt, "datasets": mixed})
    assert ClipDataset({**opt, "phase": "test"})[0]["lq"].shape[-2:] == (16, 20)
