"""`kdsr.load` gives what `kdsr upscale` writes, bit for bit, and keeps the kind of what it is given."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PIL
from torch import nn

import kdsr
from kdsr_arch.cli import main
from kdsr_arch.ops.bicubic import upsample_bicubic
from tests.helpers.messages import refuses
from tests.helpers.networks import Image, Window

RNG = np.random.default_rng(0)
BICUBIC = {"type": "Bicubic", "scale": 2}


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def flipped(image):
    """RGB(A) to OpenCV's BGR(A), and back; gray stays."""
    return image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


@pytest.mark.parametrize("flags", [[], ["--tile", "16", "--overlap", "4"], ["--quality", "fast", "--outscale", "3"]])
@pytest.mark.parametrize("shape, dtype", [((21, 34, 3), np.uint8), ((20, 17, 4), np.uint16), ((18, 18), np.uint8)])
def test_an_image_is_that_of_the_command(tmp_path, flags, shape, dtype):
    image = noise(*shape, dtype=dtype)
    cv2.imwrite(str(tmp_path / "a.png"), flipped(image))
    command = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--device", "cpu", *flags]
    assert main(command) == 0
    values = {key.removeprefix("--"): value for key, value in zip(flags[::2], flags[1::2], strict=True)}
    values = {key: int(value) if value.isdigit() else value for key, value in values.items()}
    made = kdsr.load(device="cpu", **values)(image)
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, flipped(cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)))


@pytest.mark.parametrize("weights", ["EDVRSlim_x4_demo", "PlainSR_x4_20k"])
def test_a_clip_is_that_of_the_command(tmp_path, weights):
    clip = noise(4, 16, 20, 3)
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(clip):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), flipped(frame))
    folders = [str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(["upscale", *folders, "--sequence", "--weights", weights, "--device", "cpu"]) == 0
    made = kdsr.load(weights, device="cpu")(clip)
    for number, frame in enumerate(made):
        np.testing.assert_array_equal(frame, flipped(cv2.imread(str(tmp_path / "out" / f"{number}.png"))))


def test_each_kind_comes_back_as_itself():
    net, image = kdsr.load(network=BICUBIC, device="cpu"), noise(6, 8, 3)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    exact = upsample_bicubic(planes[None].float() / 255, 2)[0]
    whole = net(image)
    assert torch.equal(net(planes), torch.from_numpy(whole).permute(2, 0, 1))
    for dtype in (torch.float32, torch.float64):
        made = net(planes.to(dtype) / 255)
        assert made.dtype == dtype and not made.is_inference()
        torch.testing.assert_close(made.float(), exact, atol=1e-6, rtol=0)
    for dtype in (np.float32, np.float64):
        made = net(image.astype(dtype) / 255)
        assert made.dtype == dtype
        np.testing.assert_allclose(made, exact.permute(1, 2, 0).numpy(), atol=1e-6)
    gray = net(image[..., 0].astype(np.float32) / 255)
    np.testing.assert_allclose(gray, exact[0].numpy(), atol=1e-6)
    assert net(image[..., :1]).shape == (12, 16, 1) and net(image[..., 0]).shape == (12, 16)
    assert net.scale == 2 and "Bicubic" in repr(net)


def test_clips_of_a_video_network_see_their_neighbors():
    torch.manual_seed(3)
    net = kdsr.load(Window().eval(), device="cpu")
    clips = torch.rand(2, 4, 3, 8, 8)
    made = net(clips)
    assert made.shape == (2, 4, 3, 16, 16)
    torch.testing.assert_close(made[1], torch.stack(list(net.stream(iter(clips[1])))), rtol=0, atol=0)
    window = clips[1][[0, 1, 2]]  # around frame 1
    torch.testing.assert_close(made[1, 1], net.network(window[None])[0], atol=1e-6, rtol=1e-5)
    still = net(clips[1, 1])  # shown as every frame of its window
    torch.testing.assert_close(still, net.network(clips[1, [1, 1, 1]][None])[0], atol=1e-6, rtol=1e-5)


def test_a_network_that_is_there_is_copied(device):
    net = Image()
    made = kdsr.load(net, device=device.type, precision="fp32")
    assert made.network is not net and net.training and all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        x = torch.rand(3, 8, 8)
        torch.testing.assert_close(made(x), net(x[None])[0])
        assert made(x.to(device)).device.type == device.type and made(x.numpy().transpose(1, 2, 0)).shape == (16, 16, 3)


def test_what_cannot_be_upscaled_is_told():
    net = kdsr.load(network=BICUBIC, device="cpu")
    for wrong, name in (
        (noise(4, 4, 3).astype(np.float32), "255"),
        (noise(4, 4, 5), "(4, 4, 5)"),
        (noise(4, 4, 3).astype(np.int64), "int64"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (torch.zeros(4, 4, 3), "(4, 4, 3)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (np.zeros((0, 4, 4, 3), np.uint8), "frames"),
        (torch.zeros(0, 2, 3, 4, 4), "clips"),
        ([1, 2], "list"),
    ):
        with refuses(name):
            net.stream(iter(wrong)) and list(net.stream([wrong])) if isinstance(wrong, list) else net(wrong)
    with refuses("(3, 4, 4)", "(3, 5, 4)"):
        list(net.stream([noise(4, 4, 3), noise(5, 4, 3)]))


def test_an_output_of_another_size_than_the_scale_is_told():
    twice = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    image = noise(24, 32, 3)
    assert kdsr.load(twice, scale=2, device="cpu")(image).shape == (48, 64, 3)
    for net, scale, names in (
        (twice, 4, ["Sequential", "enlarges by 2, not 4"]),
        (twice, 1, ["enlarges by 2, not 1"]),
        (nn.Conv2d(3, 3, 3), 2, ["Conv2d", "22x30", "24x32"]),
    ):
        opened = kdsr.load(net, scale=scale, device="cpu")
        with refuses(*names):
            opened(image)
        with refuses(*names):
            list(opened.stream([image, image]))
        with refuses(*names):
            kdsr.load(net, scale=scale, outscale=3, device="cpu")(image)
        with refuses(names[0]):
            kdsr.load(net, scale=scale, device="cpu", tile=16, overlap=4)(image)


@pytest.mark.parametrize("wrong", [PIL.fromarray(noise(4, 4, 3)), [noise(4, 4, 3)], "a.png", Path("a.png"), None])
def test_what_is_no_array_is_told(wrong):
    net = kdsr.load(network=BICUBIC, device="cpu")
    with refuses("NumPy", type(wrong).__name__):
        net(wrong)
    if not isinstance(wrong, list):  # which is a clip
        with refuses("NumPy"):
            list(net.stream(wrong))


def test_wrong_keywords_are_told_in_pythons_words():
    for keywords, name in (
        ({"tile": 3}, "tile"), ({"device": "tpu"}, "device"), ({"overlap": -1}, "overlap"), ({"scale": 7}, "scale"),
        ({"precision": "fp8"}, "precision"), ({"weights": "PlainSR_x4_2k"}, "PlainSR_x4_2k"),
        ({"scale": 2.5}, "scale"), ({"scale": "2"}, "scale"), ({"outscale": "3"}, "outscale"),
        ({"batch": None}, "batch"), ({"weights": nn.Conv2d(3, 3, 3), "scale": 0, "outscale": 2}, "scale"),
        ({"weights": nn.Conv2d(3, 3, 3), "scale": 2.5}, "2.5"), ({"weights": 7}, "int"),
    ):  # fmt: skip
        with refuses(name, without=["--tile", "--scale", "--weights", "--overlap"]):
            kdsr.load(**keywords)
    with refuses("weights", "OrderedDict", without=["tensor"]):
        kdsr.load(Image().state_dict())


@pytest.mark.parametrize("weights", ["EDVRSlim_x4_demo", "PlainSR_x4_20k"])
def test_a_video_is_that_of_the_command(tmp_path, weights):
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    clip, source, target = noise(4, 16, 24, 3), tmp_path / "a.mkv", tmp_path / "b.mkv"
    with av.open(str(source), "w") as out:  # lossless, as RGB
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "bgr0"
        for frame in clip:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")))
        out.mux(stream.encode())
    flags = ["--codec", "ffv1", "--weights", weights, "--device", "cpu"]
    assert main(["upscale", str(source), "-o", str(target), *flags]) == 0
    with av.open(str(target)) as made:
        frames = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
    np.testing.assert_array_equal(np.stack(frames), kdsr.load(weights, device="cpu")(clip))


def test_the_callers_autocast_and_default_precision_do_not_matter():
    net, image = kdsr.load(quality="fast", device="cpu"), torch.rand(3, 16, 16)
    alone = net(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(image), alone)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(kdsr.load(quality="fast", device="cpu")(image), alone)
    finally:
        torch.set_default_dtype(torch.float32)
    half = Image().half()
    assert kdsr.load(half, device="cpu")(image).dtype == torch.float32 and half.last.weight.dtype == torch.float16


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_with_normed_weights_of_the_older_kind_is_copied():
    net = Image()
    nn.utils.weight_norm(net.head)
    image = torch.rand(3, 8, 8)
    expected = net(image[None])[0]
    assert net.head.weight.requires_grad
    torch.testing.assert_close(kdsr.load(net, device="cpu", precision="fp32")(image), expected.detach())
