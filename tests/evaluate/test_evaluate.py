"""The evaluator: forms of input, colors, frames, means, saved files, what it leaves behind."""

import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.data_util import generate_frame_indices
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from torch import nn

from kdsr_arch.archs.bicubic_arch import Bicubic
from kdsr_arch.data.clip_dataset import Clip
from kdsr_arch.errors import UserError
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.upscale.images import read_picture, upscale_picture
from tests.helpers.messages import refuses
from tests.helpers.networks import Image
from tests.helpers.options import evaluator

CPU = torch.device("cpu")
METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True},
    "ssim": {"type": "calculate_ssim", "crop_border": 2, "test_y_channel": True},
}


class Window(nn.Module):
    """Repeats pixels of a weighted sum of its frames: each frame's share shows in the result."""

    def __init__(self, num_frame=3, scale=2):
        super().__init__()
        self.traits = Traits("window", scale, num_frame=num_frame)
        weights = torch.arange(1.0, num_frame + 1)
        self.register_buffer("share", (weights / weights.sum()).view(-1, 1, 1, 1))

    def forward(self, x):
        mixed = (x * self.share).sum(1)
        return mixed.repeat_interleave(self.traits.scale, -1).repeat_interleave(self.traits.scale, -2)


class Recurrent(nn.Module):
    """Each output depends on all frames before it."""

    def __init__(self, scale=2, min_clip=1):
        super().__init__()
        self.traits = Traits("recurrent", scale, min_clip=min_clip)

    def forward(self, x):
        memory = torch.cumsum(x, 1) / torch.arange(1, x.shape[1] + 1).view(1, -1, 1, 1, 1)
        return memory.repeat_interleave(self.traits.scale, -1).repeat_interleave(self.traits.scale, -2)


def clip(name="walk", frames=5, size=(16, 20), seed=0, scale=2):
    rng = np.random.default_rng(seed)
    gt = torch.from_numpy(rng.random((frames, 3, size[0] * scale, size[1] * scale), dtype=np.float32))
    return {
        "lq": gt[..., ::scale, ::scale].clone(),
        "gt": gt,
        "name": name,
        "frames": [f"{i:03d}" for i in range(frames)],
    }


def image(name="baby", seed=0, size=(16, 20)):
    sample = clip(name, 1, size, seed)
    return {"lq": sample["lq"][0], "gt": sample["gt"][0], "lq_path": f"/data/{name}.png"}


def by_basicsr(result, truth, metric):
    """The metric exactly as BasicSR's models compute it, from float tensors."""
    function = {"psnr": calculate_psnr, "ssim": calculate_ssim}[metric]
    return function(tensor2img([result]), tensor2img([truth]), 2, test_y_channel=True)


def evaluate(net, data, opt_dataset=None, scale=2, save_dir=None, **val):
    return evaluator(scale, opt_dataset, metrics=METRICS, **val).run(net, data, CPU, save_dir=save_dir, progress=False)


def test_images_equal_basicsr():
    samples = [image("a", 1), image("b", 2)]
    net = Bicubic(2)
    result = evaluate(net, samples)
    assert [(name, count) for name, _, count in result.per_item] == [("a", 1), ("b", 1)]
    for sample, (_, values, _) in zip(samples, result.per_item, strict=True):
        restored = net(sample["lq"][None])[0]
        for metric in METRICS:
            assert values[metric] == pytest.approx(by_basicsr(restored, sample["gt"], metric), abs=1e-6)
    assert result.mean["psnr"] == pytest.approx(np.mean([v["psnr"] for _, v, _ in result.per_item]))
    assert result.unit == "images" and result.protocol == "Y channel, crop 2, BI x2"


@pytest.mark.parametrize(
    ("padding", "frames"),
    [("replicate", 7), ("replicate", 2), ("replicate", 1), ("reflection", 7), ("reflection_circle", 7), ("circle", 7)],
)
def test_windows_slide_as_in_basicsr(padding, frames):
    sample, net = clip(frames=frames), Window(5)
    result = evaluate(net, [sample], {"padding": padding})
    expected = []
    for i in range(frames):
        window = sample["lq"][generate_frame_indices(i, frames, 5, padding)]
        expected.append(by_basicsr(net(window[None])[0], sample["gt"][i], "psnr"))
    assert result.per_item[0][1]["psnr"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert result.per_item[0][2] == frames and result.unit == "clips"


def test_recurrent_networks_get_the_whole_clip():
    sample, net = clip(frames=4), Recurrent()
    restored = net(sample["lq"][None])[0]
    expected = np.mean([by_basicsr(restored[i], sample["gt"][i], "ssim") for i in range(4)])
    assert evaluate(net, [sample]).mean["ssim"] == pytest.approx(expected, abs=1e-6)


def test_a_clip_too_short_for_a_recurrent_network_is_filled_up_as_in_upscaling():
    net = Recurrent(min_clip=3)
    for frames in (1, 2):
        sample = clip(frames=frames)
        restored = torch.stack([*Restorer(Runner(net, net.traits), CPU).stream(sample["lq"], 8)])
        expected = np.mean([by_basicsr(restored[i], sample["gt"][i], "psnr") for i in range(frames)])
        assert evaluate(net, [sample]).mean["psnr"] == pytest.approx(expected, abs=1e-6)


def test_basicsr_windows_are_grouped_by_folder():
    """VideoTestDataset gives one window at a time; a clip's number must not depend on that."""
    net, clips = Window(3), [clip("a", 5, seed=1), clip("b", 3, seed=2)]
    windows = []
    for sample in clips:
        total = len(sample["lq"])
        for i in range(total):
            index = generate_frame_indices(i, total, 3, "replicate")
            windows.append(
                {
                    "lq": sample["lq"][index],
                    "gt": sample["gt"][i],
                    "folder": sample["name"],
                    "idx": f"{i}/{total}",
                    "border": 0,
                    "lq_path": f"/x/{sample['name']}/{i:08d}.png",
                }
            )
    whole, by_window = evaluate(net, clips), evaluate(net, windows)
    assert by_window.per_item == whole.per_item
    assert by_window.mean == whole.mean and by_window.frame_mean == whole.frame_mean


def test_a_longer_window_is_cut_to_its_middle():
    """A Vimeo-90K septuplet under a 3-frame network."""
    sample, net = clip(frames=7), Window(3)
    septuplet = {"lq": sample["lq"], "gt": sample["gt"][3], "folder": "00001/0266", "idx": "0/1"}
    expected = by_basicsr(net(sample["lq"][None, 2:5])[0], sample["gt"][3], "psnr")
    result = evaluate(net, [septuplet], {"center_frame_only": True})
    assert result.mean["psnr"] == pytest.approx(expected, abs=1e-6) and "center frame" in result.protocol


def test_collated_batches_equal_single_samples():
    singles = [image("a", 1), image("b", 2)]
    batch = {
        "lq": torch.stack([s["lq"] for s in singles]),
        "gt": torch.stack([s["gt"] for s in singles]),
        "lq_path": [s["lq_path"] for s in singles],
    }
    assert evaluate(Bicubic(2), [batch]).per_item == evaluate(Bicubic(2), singles).per_item
    nameless = {key: batch[key] for key in ("lq", "gt")}
    assert evaluate(Bicubic(2), [nameless]).mean == evaluate(Bicubic(2), singles).mean
    loader = torch.utils.data.DataLoader([clip("a"), clip("b", seed=1)], batch_size=1)
    collated = list(loader)
    direct = evaluate(Window(), [clip("a"), clip("b", seed=1)])
    assert evaluate(Window(), loader).per_item == direct.per_item
    assert evaluate(Window(), collated).per_item == direct.per_item


def test_frames_that_count():
    sample, net = clip(frames=6), Window(3)
    everything = evaluate(net, [sample]).per_item[0][1]["psnr"]
    inner = evaluate(net, [sample], skip_first=2, skip_last=1)
    expected = []
    for i in (2, 3, 4):
        window = sample["lq"][generate_frame_indices(i, 6, 3, "replicate")]
        expected.append(by_basicsr(net(window[None])[0], sample["gt"][i], "psnr"))
    assert inner.mean["psnr"] == pytest.approx(np.mean(expected), abs=1e-6) != everything
    assert "without the first 2 and the last 1 frames" in inner.protocol and inner.per_item[0][2] == 3
    center = evaluate(net, [sample], {"center_frame_only": True})
    assert center.per_item[0][2] == 1 and "center frame" in center.protocol
    with refuses("val.skip_first 4", "val.skip_last 2", "'walk'", 6):
        evaluate(net, [sample], skip_first=4, skip_last=2)


def test_ground_truth_of_some_frames_only():
    sample = clip(frames=7)
    expected = evaluate(Window(3), [sample], center_frame_only=True).mean
    partial = {**sample, "gt": sample["gt"][3:4], "gt_index": [3]}
    assert evaluate(Window(3), [partial]).mean == expected


def test_mean_over_clips_and_over_frames():
    clips = [clip("long", 6, seed=1), clip("short", 3, seed=2)]
    result = evaluate(Window(3), clips)
    values = [v["psnr"] for _, v, _ in result.per_item]
    assert result.mean["psnr"] == pytest.approx(sum(values) / 2)
    assert result.frame_mean["psnr"] == pytest.approx((6 * values[0] + 3 * values[1]) / 9)


def test_clip_metrics_beside_image_metrics():
    metrics = {**METRICS, "tof": {"type": "calculate_tof", "crop_border": 2}}
    result = evaluator(metrics=metrics).run(Window(3), [clip(frames=3)], CPU, progress=False)
    assert list(result.mean) == ["psnr", "ssim", "tof"] and result.mean["tof"] > 0
    windows = [{"lq": clip()["lq"][:3], "gt": clip()["gt"][1], "folder": "a", "idx": "1/3"}]
    with refuses("val.metrics.tof", "'set'"):
        evaluator(metrics=metrics).run(Window(3), windows, CPU, progress=False)


def test_clips_of_which_too_little_counts_are_refused_before_any_is_restored():
    clips = [Clip(name, tuple("abc"[:count]), dict(enumerate("abc"[:count]))) for name, count in (("x", 3), ("y", 1))]
    metrics, data = {"tof": {"type": "calculate_tof"}}, SimpleNamespace(selected=clips)
    with refuses("val.metrics.tof", "'y'", "exclude"):
        evaluator(metrics=metrics).check(data)
    with refuses("skip_first 1", "'y'"):
        evaluator(metrics=METRICS, dataset={"skip_first": 1}).check(data)
    evaluator(metrics=metrics).check(SimpleNamespace(selected=[clips[0], Clip("z", ("a",), {})]))  # nothing to score


def test_luma_networks_and_luma_data():
    class Luma(nn.Module):
        def __init__(self):
            super().__init__()
            self.traits = Traits("image", 2, color="y", upsampled_input=True)

        def forward(self, x):
            assert x.shape[1] == 1
            return x

    sample = image("a", 3)
    plain = evaluate(Bicubic(2), [sample]).mean["psnr"]
    assert evaluate(Luma(), [sample]).mean["psnr"] == pytest.approx(plain, abs=0.1)
    gray = {"lq": sample["lq"][:1], "gt": sample["gt"][:1], "name": "gray"}
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}
    result = evaluator(metrics=metrics).run(Luma(), [gray], CPU, progress=False)
    assert result.protocol.startswith("Y channel, no crop")


def test_saved_frames_are_the_scored_ones(tmp_path):
    net, sample = Window(3), clip(frames=3)
    result = evaluate(net, [sample, image("baby")][:1], save_dir=tmp_path)
    assert sorted(p.name for p in (tmp_path / "walk").iterdir()) == ["000.png", "001.png", "002.png"]
    truth = tensor2img([sample["gt"][1]])
    saved = cv2.imread(str(tmp_path / "walk" / "001.png"))
    window = sample["lq"][[0, 1, 2]]
    assert np.array_equal(saved, tensor2img([net(window[None])[0]]))
    assert calculate_psnr(saved, truth, 2, test_y_channel=True) > 0 and result.mean
    evaluate(Bicubic(2), [image("baby")], save_dir=tmp_path / "images", suffix="x2")
    assert [p.name for p in (tmp_path / "images").iterdir()] == ["baby_x2.png"]


def test_without_ground_truth_frames_are_saved_only(tmp_path):
    sample = {key: value for key, value in image().items() if key != "gt"}
    result = evaluate(Bicubic(2), [sample], save_dir=tmp_path)
    assert result.mean == {} and result.per_item == [("baby", {}, 0)] and (tmp_path / "baby.png").is_file()


def test_training_flags_come_back():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Bicubic(2))
    net.traits = Traits("image", 2)
    net.train()
    net[1].eval()  # a frozen batch normalization
    before = net[1].running_mean.clone()
    evaluate(net, [image()])
    assert [m.training for m in (net, net[0], net[1], net[2])] == [True, True, False, True]
    assert torch.equal(net[1].running_mean, before)
    net(image()["lq"][None]).sum().backward()  # nothing cached while evaluating may stand in the way
    assert net[0].weight.grad is not None
    with pytest.raises(UserError):
        evaluate(net, [{**image(), "gt": torch.rand(3, 9, 9)}])
    assert net.training and not net[1].training


def test_odd_ground_truth_is_cut_once():
    sample = image()
    odd = {**sample, "gt": torch.nn.functional.pad(sample["gt"], (0, 1, 0, 1))}
    assert evaluate(Bicubic(2), [odd]).mean == evaluate(Bicubic(2), [sample]).mean


def test_what_a_data_set_draws_at_random_is_the_same_in_every_test():
    class Noisy:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            drawn = torch.rand(1) + np.random.rand() + random.random()
            return {**image(str(index), index), "lq": image()["lq"] * drawn.float()}

    first, second = (evaluate(Bicubic(2), Noisy()) for _ in range(2))
    assert first.per_item == second.per_item


def test_a_data_set_of_arrays_or_of_another_precision_scores_alike():
    sample = image("a", 1)
    wide = {key: value.double() if isinstance(value, torch.Tensor) else value for key, value in sample.items()}
    arrays = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in wide.items()}
    net = Image()
    results = [evaluate(net, [given]).mean for given in (sample, wide, arrays)]
    assert results[0] == results[1] == results[2]


def test_refusals():
    for wrong, names in ((None, ["NoneType"]), ({"gt": 0}, ["gt"]), ({"lq": torch.zeros(3, 4, 4).byte()}, ["uint8"])):
        with refuses("test sample 1", "'lq'", *names):
            evaluate(Bicubic(2), [image(), wrong])
    with refuses("'set'"):
        evaluate(Bicubic(2), [])
    with refuses("'baby'", "x2", "32x40", "64x80"):
        evaluate(Bicubic(2), [{**image(), "gt": torch.rand(3, 64, 80)}])
    with refuses("'walk'", 3, 5, "num_frame: 5"):
        evaluate(Window(5), [{**clip(frames=3), "gt": image()["gt"]}])
    with refuses(2, 5, "'reflection'"):
        evaluate(Window(5), [clip(frames=2)], {"padding": "reflection"})
    with refuses("Window", 3, "(1, 3, 16, 20)"):
        evaluate(Window(3), [image()])
    with refuses("'walk'", 5, 4):
        evaluate(Window(3), [{**clip(frames=5), "gt": clip(frames=4)["gt"]}])
    with refuses("val.metrics.p.type", "'calculate_psrn'", near="calculate_psnr"):
        evaluator(metrics={"p": {"type": "calculate_psrn"}})
    with refuses("Bicubic", 2, 4):
        evaluate(Bicubic(2), [image()], scale=4)
    with refuses("baby", "LR image", "NaN", without=["weights"]):
        evaluate(Bicubic(2), [{**image(), "lq": torch.full((3, 16, 20), torch.nan)}])


@pytest.mark.parametrize("leaving", [SystemExit(3), GeneratorExit()])
def test_a_data_set_that_leaves_the_program_is_told(leaving):
    class Leaving(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise leaving

    with refuses("test sample 0", "Leaving", type(leaving).__name__):
        evaluate(Bicubic(2), Leaving())


def test_protocol_names_disagreeing_metrics():
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 4}, "ssim": METRICS["ssim"]}
    result = evaluator(dataset={"degradation": "BI"}, metrics=metrics).run(
        Window(3), [clip(size=(32, 32))], CPU, progress=False
    )
    assert result.protocol == "psnr: RGB, crop 4; ssim: Y channel, crop 2; all frames; BI x2"


def test_progress_is_shown(capsys):
    evaluator(dataset={"name": "held-out"}, metrics=METRICS).run(Bicubic(2), [image()], CPU)
    assert "Test held-out" in capsys.readouterr().err


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


@pytest.mark.parametrize(
    ("key", "root", "names", "files"),
    [
        ("name", None, ["a/001", "b/001"], ["a/001.png", "b/001.png"]),
        ("name", None, ["render.1001", "render.1002"], ["render.1001.png", "render.1002.png"]),
        ("name", None, ["/etc/x", "../y"], ["etc/x.png", "y.png"]),
        ("lq_path", "/data", ["/data/a/001.png", "/data/b/001.png"], ["a/001.png", "b/001.png"]),
        ("lq_path", "data", ["data/a/001.jpg", "data/b.c/001.jpg"], ["a/001.png", "b.c/001.png"]),
        ("lq_path", None, ["a/001", "a/001.5"], ["a/001.5.png", "a/001.png"]),  # BasicSR's keys of a store
        ("lq_path", None, ["/x/001.png", "/y/001.png", "/z/001.png"], ["001.png", "001_2.png", "001_3.png"]),
    ],
)
def test_no_saved_image_replaces_another(tmp_path, key, root, names, files):
    samples = [{**image(), "lq_path": None, key: name} for name in names]
    samples = [{k: v for k, v in sample.items() if v is not None} for sample in samples]
    result = evaluate(Bicubic(2), samples, {"dataroot_lq": root} if root else None, save_dir=tmp_path)
    assert written(tmp_path) == files and len(result.per_item) == len(files)
    again = evaluator(2, {"dataroot_lq": root} if root else None, metrics=METRICS)
    for _ in range(2):  # a later validation of the same evaluator numbers nothing
        again.run(Bicubic(2), samples[:1], CPU, save_dir=tmp_path / "val", progress=False)
    assert len(written(tmp_path / "val")) == 1


def test_no_saved_frame_replaces_another(tmp_path):
    frames = [f"render.{1001 + i}" for i in range(4)]
    evaluate(Window(3), [{**clip(frames=4), "name": "shots/s.1", "frames": frames}], save_dir=tmp_path)
    assert written(tmp_path) == [f"shots/s.1/{frame}.png" for frame in frames]
    windows = [  # BasicSR's test set of Vimeo-90K calls every clip so
        {"lq": clip()["lq"][:3], "gt": clip()["gt"][1], "folder": "vimeo90k", "idx": f"{i}/2",
         "lq_path": f"/lq/0000{i}/0266/im4.png"} for i in range(2)
    ]  # fmt: skip
    evaluate(Window(3), windows, {"dataroot_lq": "/lq"}, save_dir=tmp_path / "v")
    assert written(tmp_path / "v") == ["vimeo90k/00000/0266/im4.png", "vimeo90k/00001/0266/im4.png"]


class LumaBicubic(nn.Module):
    """Bicubic of one channel."""

    def __init__(self):
        super().__init__()
        self.inner, self.traits = Bicubic(2), Traits("image", 2, color="y")

    def forward(self, x):
        assert x.shape[1] == 1
        return self.inner(x)


def test_luma_is_saved_as_the_gray_picture_that_it_is_of(tmp_path):
    """White is 255, not 235; and what `kdsr upscale` writes of the gray picture is the same."""
    rng = np.random.default_rng(0)
    gray = cv2.resize(rng.integers(0, 256, (4, 5), dtype=np.uint8), (40, 32), interpolation=cv2.INTER_CUBIC)
    gray[:8, :8], gray[-8:, -8:] = 0, 255
    cv2.imwrite(str(tmp_path / "in.png"), gray)
    rgb = torch.from_numpy(gray).float().div(255).expand(3, -1, -1)
    sample = {"lq": rgb_to_y(rgb), "name": "x"}
    evaluate(LumaBicubic(), [sample], {"color": "y"}, save_dir=tmp_path)
    saved = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    restorer = Restorer(Runner(LumaBicubic(), LumaBicubic().traits), CPU)
    upscaled = upscale_picture(restorer, read_picture(tmp_path / "in.png")).color[..., 0]
    assert saved.min() == 0 and saved.max() == 255 and saved.shape == upscaled.shape
    assert np.abs(saved.astype(int) - upscaled).max() <= 1


def test_a_network_makes_no_colors_of_luma():
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.PixelShuffle(2))
    with refuses("Sequential", 1, 3):
        Runner(net, traits_of(net, 2)).forward(torch.rand(1, 3, 8, 8))
    with refuses("Sequential", 1, 3):
        Runner(net, traits_of(net, 2)).restore(torch.rand(1, 2, 3, 8, 8))


def test_exact_flow_goes_with_the_frames_that_count():
    """Still pixels, brightness up by 40 from frame 2 to 3 alone; its flow says that nothing is visible there."""
    sample = clip(frames=5)
    sample["gt"] = sample["gt"] * 0 + torch.tensor([0.0, 0.0, 0.0, 40 / 255, 40 / 255]).view(5, 1, 1, 1)
    sample["lq"] = sample["gt"][..., ::2, ::2].clone()
    known = {"flow": torch.zeros(4, 2, 32, 40), "visible": torch.ones(4, 1, 32, 40)}
    warp = {"warp": {"type": "calculate_warping_error", "flow": "exact"}}

    def score(sample, **val):
        return evaluator(2, metrics=warp | METRICS, **val).run(Bicubic(2), [sample], CPU, progress=False).mean

    assert score(sample | known)["warp"] == pytest.approx(1e3 * (40 / 255) ** 2 / 4)
    assert score(sample | known, skip_first=1)["warp"] == pytest.approx(1e3 * (40 / 255) ** 2 / 3)
    known["visible"][2] = 0
    assert score(sample | known, skip_first=1, skip_last=1)["warp"] == 0
    assert set(score(sample)) == set(METRICS)  # nothing is known: left out
