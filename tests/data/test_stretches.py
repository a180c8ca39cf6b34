"""Stages with crops and batches of their own."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch

from kdsr_arch.data.loader import train_batches
from kdsr_arch.data.stretches import BatchesInTurn, open_stretches
from tests.helpers.messages import refuses
from tests.helpers.options import make_options

STAGES = [{"iters": 2}, {"iters": 3, "gt_size": 48, "batch_size_per_gpu": 3}, {"iters": 1, "batch_size_per_gpu": 5}]


@pytest.fixture(scope="module")
def images(frames, tmp_path_factory, save):
    root = tmp_path_factory.mktemp("stretches")
    for index in range(3):
        save(root / f"{index:04d}.png", frames[index][:56, :72])
    return root


def options(images, stages, **section):
    data = {"type": "ImagePairDataset", "dataroot_gt": str(images), "scale": 4, "gt_size": 32, "use_hflip": True,
            "batch_size_per_gpu": 4, "num_worker_per_gpu": 0, **section}  # fmt: skip
    train = {"total_iter": sum(stage["iters"] for stage in stages), "optim_g": {"type": "Adam", "lr": 1e-3}}
    train |= {"pixel_opt": {"type": "L1Loss"}, "stages": stages, "accumulation": 2}
    return make_options({"scale": 4, "network_g": {"type": "VDSR"}, "datasets": {"train": data}, "train": train})


def drawn(images, start=0, stages=STAGES, **section):
    """All micro-batches after `start`."""
    opt = options(images, stages, **section)

    def draw(stretch, iteration):
        return train_batches(opt, stretch.dataset, iteration, section=stretch.section, last=stretch.last)

    source = BatchesInTurn(open_stretches(opt), start, 2, draw)
    try:
        return [source.expand(batch)["gt"] for batch in source]
    finally:
        source.close()


@pytest.mark.parametrize(
    "section", [{}, {"resident": "device"}, pytest.param({"num_worker_per_gpu": 2}, marks=pytest.mark.slow)]
)
def test_each_stage_has_its_sizes_whatever_the_start(images, section):
    whole = drawn(images, **section)
    assert [tuple(batch.shape) for batch in whole] == [(4, 3, 32, 32)] * 4 + [(3, 3, 48, 48)] * 6 + [(5, 3, 32, 32)] * 2
    for start in range(6):
        rest = drawn(images, start, **section)
        assert len(rest) == 12 - 2 * start
        assert all(torch.equal(one, other) for one, other in zip(rest, whole[2 * start :], strict=True))


def test_what_a_stage_held_on_the_device_goes_before_the_next_ones_comes(images):
    """Else a GPU would have to hold the images twice."""
    opt, held = options(images, STAGES, resident="device"), list[weakref.ref]()

    def draw(stretch, iteration):
        assert not any(ref() for ref in held)
        batches = train_batches(opt, stretch.dataset, iteration, section=stretch.section, last=stretch.last)
        held.append(weakref.ref(batches.expand))
        return batches

    source = BatchesInTurn(open_stretches(opt), 0, 2, draw)
    for batch in source:
        assert source.expand(batch)["gt"].dtype == torch.float32
    assert len(held) == len(STAGES)
    source.close()


def test_a_stage_draws_what_a_training_of_these_sizes_would_there(images):
    alone = drawn(images, stages=[{"iters": 5}], gt_size=48, batch_size_per_gpu=3)
    assert all(torch.equal(one, other) for one, other in zip(drawn(images)[4:10], alone[4:], strict=True))


def test_a_mixture_takes_the_crop_of_the_stage(images):
    part = {"type": "ImagePairDataset", "dataroot_gt": str(images), "gt_size": 32}
    shapes = [batch.shape for batch in drawn(images, type="MixDataset", dataroot_gt=None, datasets=[part, part])]
    assert shapes[4] == (3, 3, 48, 48)


def test_stages_that_draw_alike_share_a_data_set(images):
    stages = [{"iters": 1}, {"iters": 2, "terms": ["pixel"]}, {"iters": 3, "gt_size": 32}, {"iters": 1, "gt_size": 40}]
    first, second = open_stretches(options(images, stages))
    assert (first.last, second.last) == (6, 7)
    for one, other in itertools.pairwise([first, second]):
        assert one.dataset is not other.dataset


def test_crops_that_do_not_fit_are_found_before_the_training(images):
    faults = dict(options(images, [{"iters": 1}, {"iters": 1, "gt_size": 50}]).faults())
    assert faults == {"train.stages.1.gt_size": "must be a multiple of scale (4), got 50"}
    with refuses("smaller than the patch of gt_size 64"):
        open_stretches(options(images, [{"iters": 1}, {"iters": 1, "gt_size": 64}]))
