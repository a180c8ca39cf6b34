"""Clips rendered from photographs: the flow against the frames, the frames against what a camera would see."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.data.augment import Crop, apply_flip, flip_flow, flip_of
from kdsr_arch.data.camera import Camera, Motion, draw_motion, place
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.flow_image import flow_image, read_flow_image, stays_inside
from kdsr_arch.data.mix_dataset import MixDataset
from kdsr_arch.data.pairs import FramePairs, PairOptions
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_images, convert_store
from kdsr_arch.data.prepare.still_clips import Rendering, convert_stills, rendered_clips
from kdsr_arch.data.prepare.store_tools import verify
from kdsr_arch.data.sources import LmdbSource
from kdsr_arch.data.still_clip import Cutout, Scene, draw_scene, exact_flow, render, shares_in_front
from kdsr_arch.data.still_clip_dataset import StillClipDataset
from kdsr_arch.data.store.codec import codec_named
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.ops.degrade import bd_downsample
from tests.helpers.messages import refuses

STILL = Camera(shift=0, zoom=0, rotation=0, tilt=0, parallax=0)


def texture(seed: int, size: tuple[int, int] = (300, 400), blur: float = 8) -> np.ndarray:
    """Noise without detail that a frame could not show, over all the values."""
    noise = np.random.default_rng(seed).standard_normal((*size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return (127 + 40 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos():
    return [texture(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def photo_root(photos, tmp_path_factory, save):
    root = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate(photos):
        save(root / f"{number}.png", photo)
    return root


@pytest.fixture
def make(photo_root):
    def build(**changes) -> StillClipDataset:
        opt = {"name": "stills", "phase": "train", "dataroot_gt": str(photo_root), "scale": 4, "gt_size": 48}
        return StillClipDataset(**{**opt, "clip_length": 3, "num_frame": 3, **changes})

    return build


def rendered(scene, photos):
    shares = shares_in_front(scene)
    return render(scene, lambda number, area: area.of(photos[number]), shares), exact_flow(scene, shares)


def draw(seed, photos, camera=None, size=(64, 80), frames=4):
    rng = np.random.default_rng(seed)
    return draw_scene(rng, seed % len(photos), len(photos), lambda n: photos[n].shape[:2], size, frames,
                      camera or Camera(parallax=1))  # fmt: skip


def brought_back(frame, vectors):
    """The next frame along the flow, on the pixels of this one."""
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
    return cv2.remap(frame.astype(np.float32), x + vectors[0], y + vectors[1], cv2.INTER_LINEAR)


def by_hand(shift, size=(64, 80), zoom=(0, 0), photo_size=(300, 400)):
    """Two frames of a motion that is given, over photograph 0."""
    motion = Motion(np.array(shift, float), np.array(zoom, float), np.zeros(2), np.zeros((2, 2)))
    camera = Camera(density=(2, 2))
    return Scene(size, place(np.random.default_rng(0), motion, size, 0, photo_size, camera))


# ------------------------------------------------------------------------------------------------- flow and visibility


def test_the_next_frame_comes_back_along_the_flow(photos):
    hidden, moved = 0.0, 0.0
    for seed in range(12):
        scene = draw(seed, photos)
        frames, flow = rendered(scene, photos)
        for t in range(len(frames) - 1):
            seen = flow.visible[t, 0] > 0
            error = brought_back(frames[t + 1], flow.vectors[t]) - frames[t]
            assert seen.mean() > 0.2
            assert 10 * np.log10(255**2 / np.mean(error[seen] ** 2)) > 48  # rounding of both frames: 55.9
            assert np.abs(error[seen]).max() < 5
            hidden = max(hidden, np.abs(error[~seen]).max())
            moved = max(moved, np.abs(frames[t + 1].astype(float) - frames[t]).max())
    assert hidden > 60 and moved > 60  # what is called hidden would not agree


def test_flow_by_hand():
    """p shows the photograph at p + shift: what moves the camera by (3, -2) moves the picture by (-3, 2)."""
    flow = exact_flow(by_hand([[0, 0], [3, -2]]), None)
    np.testing.assert_allclose(flow.vectors[0, 0], -3, atol=1e-5)
    np.testing.assert_allclose(flow.vectors[0, 1], 2, atol=1e-5)
    expected = np.zeros((64, 80))
    expected[:62, 3:] = 1  # the others leave the frame
    np.testing.assert_array_equal(flow.visible[0, 0], expected)
    # a frame that sees twice as much shows everything at half its distance from the middle
    flow = exact_flow(by_hand([[0, 0], [0, 0]], zoom=[0, np.log(2)]), None)
    y, x = np.mgrid[:64, :80]
    np.testing.assert_allclose(flow.vectors[0, 0], -(x - 39.5) / 2, atol=1e-4)
    np.testing.assert_allclose(flow.vectors[0, 1], -(y - 31.5) / 2, atol=1e-4)
    assert flow.visible.all()


def test_a_motion_by_whole_pixels_moves_the_frame(photos):
    frames, _ = rendered(by_hand([[0, 0], [3, -2]]), photos)
    np.testing.assert_allclose(frames[1][2:, :-3].astype(int), frames[0][:-2, 3:].astype(int), atol=1)


def test_what_is_behind_the_outline_is_not_visible(photos):
    """A front that covers what lies below it, at 4 pixels a frame from the left, before one that stands."""
    back, front = by_hand([[0, 0], [0, 0]]).back, by_hand([[0, 0], [-4, 0]]).back
    half = np.repeat(np.array([[1, 1, -1, -1]], np.float32), 4, 0)  # left of the middle of what is read
    scene = Scene((64, 80), back, front, Cutout(half, 0.0))
    shares = shares_in_front(scene)
    edge = int((shares[0, 32] > 0.5).sum())
    assert 20 < edge < 60 and (shares[1, 32] > 0.5).sum() == edge + 4
    flow = exact_flow(scene, shares)
    np.testing.assert_allclose(flow.vectors[0, 0, :, : edge - 3], 4, atol=1e-4)
    np.testing.assert_allclose(flow.vectors[0, :, :, edge + 8 :], 0, atol=1e-4)
    assert flow.visible[0, 0, :, : edge - 4].all() and flow.visible[0, 0, :, edge + 9 :].all()
    assert not flow.visible[0, 0, :, edge - 1 : edge + 4].any()


@pytest.mark.parametrize("number", range(8))
def test_a_flipped_flow_leads_through_flipped_frames(photos, number):
    frames, flow = rendered(draw(1, photos), photos)
    planes = apply_flip(frames.transpose(0, 3, 1, 2), flip_of(number)).transpose(0, 2, 3, 1)
    seen = apply_flip(flow.visible, flip_of(number))[0, 0] > 0
    error = brought_back(np.ascontiguousarray(planes[1]), flip_flow(flow.vectors, flip_of(number))[0]) - planes[0]
    assert np.abs(error[seen]).max() < 5


# --------------------------------------------------------------------------------------------------------- the frames


def test_what_a_frame_cannot_show_does_not_become_a_pattern():
    """Stripes of one pixel of the photograph, two for one of a frame, would be black or white; they are gray."""
    stripes = np.broadcast_to(np.where(np.arange(400) % 2, 255, 0)[None, :, None], (300, 400, 3)).astype(np.uint8)
    frames, _ = rendered(by_hand([[0, 0], [0.3, 0.4]]), [stripes])
    assert np.abs(frames - 127.5).max() <= 2


@pytest.mark.parametrize("density", [1.5, 2, 2.5, 3])
def test_detail_is_equally_strong_at_every_position(density):
    """A wave of four pixels of a frame: its amplitude must not depend on where between pixels it falls."""
    wave = 127 + 100 * np.sin(2 * np.pi * np.arange(400) / (4 * density))
    photo = np.broadcast_to(np.rint(wave)[None, :, None], (300, 400, 3)).astype(np.uint8)
    size, parts = (32, 64), np.linspace(0, 1, 9)
    motion = Motion(np.stack([parts, 0 * parts], 1), 0 * parts, 0 * parts, np.zeros((9, 2)))
    path = place(np.random.default_rng(3), motion, size, 0, (300, 400), Camera(density=(density, density)))
    waves = np.fft.rfft(rendered(Scene(size, path), [photo])[0][:, 16, :, 0])[:, 16]
    turns = np.unwrap(np.angle(waves)) / (2 * np.pi)
    np.testing.assert_allclose(turns - turns[0], parts / 4, atol=0.01)  # of its four pixels
    strengths = np.abs(waves) / 32
    assert strengths.min() > 80 and strengths.max() / strengths.min() < 1.06


def test_a_motion_stays_inside_its_photograph():
    """However large, it is weakened until it fits; the photograph's edge is never seen."""
    size = (64, 64)
    camera = Camera(shift=50, zoom=0.2, rotation=9, tilt=0.3, parallax=1)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        least = camera.needed(size)
        photo_size = (least[0] + 8 * seed, least[1] + 300 - 7 * seed)
        path = place(rng, draw_motion(rng, 9, size, camera), size, 0, photo_size, camera)
        top, left, height, width = path.area
        assert min(top, left) >= 0 and top + height <= photo_size[0] and left + width <= photo_size[1]
        corners = np.array([[0, 63, 0, 63], [0, 0, 63, 63], [1, 1, 1, 1]])
        x, y, depth = (path.matrices @ corners).swapaxes(0, 1)
        assert depth.min() > 0.3
        for place_, start, side in ((x / depth, left, width), (y / depth, top, height)):
            assert place_.min() >= start + 4 and place_.max() <= start + side - 5


def test_camera_bounds_are_checked():
    with refuses("camera", "density"):
        Camera(density=(3, 2))
    with refuses("camera", "shift", "-1"):
        Camera(shift=-1)


# -------------------------------------------------------------------------------------------------------- the data set


def test_samples(make):
    dataset = make(use_hflip=True, use_rot=True, num_frame=5)
    assert len(dataset) == 3 and dataset.sample_shapes() == {(7, 3, 48, 48)}
    for index in range(9):
        item = dataset.sample(index % 3, np.random.default_rng(index))
        assert item["lq"].shape == (7, 3, 12, 12) and item["gt"].shape == (3, 3, 48, 48)
        assert item["flow"].shape == (2, 2, 48, 48) and item["visible"].shape == (2, 1, 48, 48)
        assert {value.dtype for name, value in item.items() if name != "key"} == {torch.float32}
        frames = (item["gt"].numpy() * 255).transpose(0, 2, 3, 1)
        for t in range(2):
            error = brought_back(frames[t + 1], item["flow"][t].numpy()) - frames[t]
            seen = item["visible"][t, 0].numpy() > 0
            assert np.abs(error[seen]).max(initial=0) < 5


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kind", ["BI", "BD"])
def test_lr_is_that_of_the_frames(make, scale, kind):
    item = make(scale=scale, degradation=kind, num_frame=1, clip_length=2).sample(0, np.random.default_rng(5))
    frames = (item["gt"].numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    low = (item["lq"].numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    wanted, inner = imresize_uint8(frames, 1 / scale) if kind == "BI" else bd_downsample(frames, scale), slice(3, -3)
    np.testing.assert_array_equal(low[:, inner, inner], wanted[:, inner, inner])


def test_a_sample_follows_from_its_numbers_wherever_its_photographs_lie(make, photo_root, tmp_path):
    convert_images([photo_root], tmp_path / "photos.lmdb")
    sets = [make(cache=False), make(cache=True), make(dataroot_gt=str(tmp_path / "photos.lmdb"), cache=False)]
    for index in range(4):
        first, *others = (dataset.sample(index % 3, np.random.default_rng([7, index])) for dataset in sets)
        for other in others:
            assert all(torch.equal(first[name], other[name]) for name in ("lq", "gt", "flow", "visible"))
    again = sets[0].sample(0, np.random.default_rng([7, 5]))
    assert not torch.equal(again["gt"], sets[0].sample(0, np.random.default_rng([7, 6]))["gt"])


def test_one_frame_has_no_flow_and_bounds_are_honored(make):
    assert set(make(clip_length=1).sample(0, np.random.default_rng(0))) == {"lq", "gt", "key"}
    still = make(camera={"shift": 0, "zoom": 0, "rotation": 0, "tilt": 0, "parallax": 0})
    item = still.sample(0, np.random.default_rng(0))
    assert torch.equal(item["gt"][0], item["gt"][2]) and item["flow"].abs().max() < 1e-6 and item["visible"].all()


def test_test_clips_are_always_the_same(make):
    dataset = make(phase="val", num_frame=1)
    item = dataset[1]
    assert item["name"] == "1" and item["frames"] == ["00000000", "00000001", "00000002"]
    assert item["lq"].shape == (3, 3, 12, 12) and item["flow"].shape == (2, 2, 48, 48)
    assert torch.equal(item["gt"], make(phase="val")[1]["gt"])


def test_what_is_refused(make, photo_root):
    with refuses("stills", "dataroot_lq"):
        make(dataroot_lq=str(photo_root))
    with refuses("stills", "gt_size"):
        make(gt_size=None)
    with refuses("0.png", "300x400", "256"):
        make(gt_size=256)
    assert len(make(gt_size=256, camera={"density": [1, 2]})) == 3


def test_clips_without_known_motion_mix_with_them(make, clip_root):
    parts = [{"type": "StillClipDataset", "dataroot_gt": make().dataroot_gt}, {"type": "ClipDataset"}]
    mixed = MixDataset(datasets=parts, dataroot_gt=str(clip_root), scale=4, gt_size=48, clip_length=3, num_frame=3)
    items = [mixed.sample(index, np.random.default_rng(index)) for index in range(len(mixed))]
    batch = torch.utils.data.default_collate(items)
    assert batch["flow"].shape == (len(mixed), 2, 2, 48, 48)
    known = batch["visible"].flatten(1).any(1)
    assert known.tolist() == [True] * 3 + [False] * (len(mixed) - 3)
    assert "flow" not in mixed.parts[1].sample(0, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------------------ the store


def test_flow_images_are_those_of_kitti():
    vectors = np.array([[[1.5, -600]], [[-0.25, 0]]], np.float32)
    image = flow_image(vectors, np.ones((1, 1, 2)))
    assert image.dtype == np.uint16 and image[0, 0].tolist() == [32768 + 96, 32768 - 16, 1] and image[0, 1, 2] == 0
    back, visible = read_flow_image(image)
    assert back[:, 0, 0].tolist() == [1.5, -0.25] and visible.tolist() == [[[1, 0]]]


@pytest.fixture(scope="module")
def store(photo_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("stills") / "stills.lmdb"
    low = {"scale": 4, "kind": "BI", "border": "symmetric"}
    rendering = Rendering(clips=4, length=3, size=(64, 80), seed=3)
    convert_stills([photo_root], out, rendering, Making(codec_named("webp"), low, processes=1))
    return out


def test_a_store_of_rendered_clips_tests_and_trains(store):
    assert not verify(store, processes=1)
    dataset = ClipDataset(phase="val", dataroot_gt=str(store), scale=4)
    assert [clip.name for clip in dataset.selected] == ["0000", "0001", "0002", "0003"]
    for index in range(4):
        item = dataset[index]
        assert item["flow"].shape == (2, 2, 64, 80) and item["visible"].shape == (2, 1, 64, 80)
        frames = (item["gt"].numpy() * 255).transpose(0, 2, 3, 1)
        for t in range(2):
            error = brought_back(frames[t + 1], item["flow"][t].numpy()) - frames[t]
            assert np.abs(error[item["visible"][t, 0].numpy() > 0]).max() < 5
    part = ClipDataset(phase="val", dataroot_gt=str(store), scale=4, frames=[1, None])[0]
    assert torch.equal(part["flow"], dataset[0]["flow"][1:])
    sample = ClipDataset(dataroot_gt=str(store), scale=4, gt_size=48, clip_length=2).sample(0, np.random.default_rng(0))
    assert set(sample) == {"lq", "gt", "key"}


def test_each_photograph_gives_a_clip_before_any_gives_a_second(photo_root):
    photos = FramePairs(PairOptions(name="photographs", dataroot_gt=[str(photo_root)])).gt
    clips = rendered_clips(photos, Rendering(clips=4, length=2, size=(64, 80)))
    assert [clip.scene.back.photo for clip in clips] == [0, 1, 2, 0]


def test_samples_of_a_store_bring_their_flow(store):
    options = {"dataroot_gt": str(store), "scale": 4, "gt_size": 48, "clip_length": 3, "flow": True}
    dataset = ClipDataset(**options, use_hflip=True, use_rot=True)
    assert dataset.knows_flow
    for seed in range(16):
        item = dataset.sample(seed % 4, np.random.default_rng(seed))
        frames = (item["gt"].numpy() * 255).transpose(0, 2, 3, 1)
        x, y = np.meshgrid(np.arange(48), np.arange(48))
        for t in range(2):
            vectors, seen = item["flow"][t].numpy(), item["visible"][t, 0].numpy() > 0
            assert seen.any()
            ends = np.stack([x + vectors[0], y + vectors[1]])
            assert (ends[:, seen] >= -1 / 64).all() and (ends[:, seen] <= 47 + 1 / 64).all()
            assert np.abs((brought_back(frames[t + 1], vectors) - frames[t])[seen]).max() < 5
    backwards = ClipDataset(**options, random_reverse=True)
    items = [backwards.sample(0, np.random.default_rng(seed)) for seed in range(16)]
    assert len({item["key"] for item in items}) == 2
    assert all(bool(item["visible"].any()) == (item["key"] == "0000/00000000") for item in items)


def test_flow_asks_for_a_store_that_keeps_it_and_for_neighboring_frames(clip_root, store):
    options = {"name": "clips", "scale": 4, "gt_size": 48, "clip_length": 2, "flow": True}
    with refuses("clips", "flow", "--kind stills"):
        ClipDataset(dataroot_gt=str(clip_root), **options)
    with refuses("clips", "flow", "interval_list"):
        ClipDataset(dataroot_gt=str(store), **options, interval_list=[2])
    mixed = ClipDataset(dataroot_gt=str(store), **options, interval_list=[1, 2])
    known = {bool(mixed.sample(0, np.random.default_rng(seed))["visible"].any()) for seed in range(8)}
    assert known == {False, True}


def test_what_ends_inside_by_hand():
    vectors = np.zeros((1, 2, 2, 3), np.float32)
    vectors[0, 0, 0] = [-0.5, 1, 1]  # to x = -0.5, 2, 3
    vectors[0, 1, 1] = [0, -1, 0.25]  # to y = 1, 0, 1.25
    assert stays_inside(vectors).tolist() == [[[[0, 1, 0], [1, 1, 0]]]]


def test_a_store_is_the_same_when_made_again_and_keeps_its_flow_when_converted(store, photo_root, tmp_path):
    rendering = Rendering(clips=4, length=3, size=(64, 80), seed=3)
    convert_stills([photo_root], tmp_path / "again.lmdb", rendering, Making(processes=1))
    convert_store(store, tmp_path / "raw.lmdb", Making(codec_named("raw"), processes=1))
    for side in ("", "flow"):
        source = LmdbSource(store, side)
        for other in (LmdbSource(tmp_path / "again.lmdb", side), LmdbSource(tmp_path / "raw.lmdb", side)):
            assert source.keys() == other.keys()
            assert all(np.array_equal(source.get(key), other.get(key)) for key in source)
    assert LmdbSource(store, "flow").get("0000/00000001", Crop(0, 0, 8, 8)).dtype == np.uint16


def test_renderings_that_cannot_be(photo_root, tmp_path):
    with refuses("length", "2", "1"):
        Rendering(length=1)
    with refuses("300x300"):
        convert_stills([photo_root], tmp_path / "a.lmdb", Rendering(size=(300, 300)))
    assert not (tmp_path / "a.lmdb").exists()
