"""`kdsr specialize` and `kdsr upscale --specialize` from the command line, on videos, with teachers of every kind."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.cli import main
from kdsr_arch.data.prepare.video_color import VideoColor
from kdsr_arch.infer.open import open_network
from kdsr_arch.registry import build
from kdsr_arch.specialize.choose import candidates
from kdsr_arch.specialize.frames import Frame, open_source
from kdsr_arch.specialize.networks import open_teacher
from kdsr_arch.upscale.video_input import Decoder, probe
from tests.helpers.networks import VESPCN
from tests.helpers.videos import rgb

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def teacher(tmp_path):
    """A file of weights, its network beside it."""

    def make(**spec):
        torch.manual_seed(1)
        path = tmp_path / f"{spec['type']}.pth"
        torch.save({"params": build("network", spec, "network").state_dict()}, path)
        path.with_suffix(".yml").write_text(f"network: {json.dumps(spec)}\nscale: {spec.get('scale', 4)}\n")
        return path

    return make


@pytest.fixture
def clip(tmp_path, make_video):
    make_video(tmp_path / "in.mp4", n=14, w=96, h=64)
    return tmp_path / "in.mp4"


SMALL = ("--frames", "6", "--iters", "4", "--force", "--device", "cpu")


def test_upscale_with_specialize_teaches_first_and_takes_the_student_again(tmp_path, clip, capsys):
    words = ["upscale", str(clip), "-o", str(tmp_path / "out.mp4"), "--specialize", "PlainSR_x4_50k", *SMALL]
    assert main([*words, "--quality", "fast"]) == 0
    assert rgb(tmp_path / "out.mp4").shape == (14, 256, 384, 3)
    assert open_network(tmp_path / "out_student.pth").network["num_feat"] == 16
    taught = (tmp_path / "out_student.pth").stat().st_mtime_ns
    (tmp_path / "out.mp4").unlink()
    assert main([*words, "--quality", "fast"]) == 0
    assert (tmp_path / "out_student.pth").stat().st_mtime_ns == taught
    assert "taught already" in capsys.readouterr().out
    longer = [*words, "--quality", "fast", "--iters", "5"]
    (tmp_path / "out.mp4").unlink()
    assert main(longer) == 2
    assert "--overwrite" in capsys.readouterr().err and not (tmp_path / "out.mp4").exists()
    assert main([*longer, "--overwrite"]) == 0
    assert "taught already" not in capsys.readouterr().out
    assert (tmp_path / "out_student.pth").stat().st_mtime_ns != taught


def test_a_refused_command_is_no_hindrance_to_the_next(tmp_path, clip, capsys):
    words = ["specialize", str(clip), "--teacher", "PlainSR_x4_50k", "-o", str(tmp_path / "s.pth"), *SMALL]
    assert main([*words, "--frames", "50"]) == 2
    assert "fewer than --frames 50" in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.parametrize("what, said", [("nothing", "no such file or folder"), ("in.mp4", "are 96x64, not 4 times")])
def test_a_ground_truth_that_does_not_fit_is_refused_before_anything_is_done(what, said, tmp_path, clip, capsys):
    words = ["specialize", str(clip), "--teacher", "PlainSR_x4_50k", "-o", str(tmp_path / "s.pth"), *SMALL]
    assert main([*words, "--hr", str(tmp_path / what)]) == 2
    assert said in capsys.readouterr().err and sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_a_scale_that_the_teacher_has_not_is_refused_before_anything_is_done(tmp_path, clip, capsys):
    words = ["upscale", str(clip), "-o", str(tmp_path / "o.mp4"), "--specialize", "PlainSR_x4_50k", "--scale", "2"]
    assert main([*words, *SMALL]) == 2
    assert "enlarges by 4" in capsys.readouterr().err and sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize("words", [("--iters", "5"), ("--self-ensemble",), ("--zoom-share", "0.1")])
def test_how_to_teach_goes_with_a_teacher(words, tmp_path, clip, capsys):
    assert main(["upscale", str(clip), "-o", str(tmp_path / "out.mp4"), *words]) == 2
    said = capsys.readouterr().err
    assert words[0] in said and "--specialize" in said and not (tmp_path / "out.mp4").exists()


def test_a_window_teacher_sees_the_neighbors(tmp_path, clip, teacher):
    path = teacher(**VESPCN, scale=4)
    output = tmp_path / "student.pth"
    assert main(["specialize", str(clip), "--teacher", str(path), "-o", str(output), *SMALL]) == 0
    work = tmp_path / "student_specialize"
    plan = json.loads((work / "plan.json").read_text())
    images = [frame.image for frame in open_source(clip, "video").frames()]
    net = open_teacher([str(path)], None, False, CPU)
    for frame in plan["frames"]:
        n = frame["number"]
        wanted = net.restore([images[min(max(i, 0), 13)] for i in (n - 1, n, n + 1)])
        folder = work / ("held_out/gt/teacher" if frame["held_out"] else "frames/teacher")
        stored = cv2.cvtColor(cv2.imread(str(folder / f"{n:07d}.png")), cv2.COLOR_BGR2RGB)
        assert np.array_equal(stored, wanted)


def test_a_window_teacher_is_refused_for_single_images(tmp_path, teacher, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    words = ["specialize", str(tmp_path / "images"), "--teacher", str(teacher(**VESPCN, scale=4)), "-o"]
    assert main([*words, str(tmp_path / "student.pth")]) == 2
    assert "--sequence" in capsys.readouterr().err and not (tmp_path / "student.pth").exists()


def test_minutes_become_iterations_of_the_option_file(tmp_path, clip):
    words = ["specialize", str(clip), "--teacher", "PlainSR_x4_50k", "-o", str(tmp_path / "s.pth"), *SMALL]
    words = [word for word in words if word not in ("--iters", "4")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdsr_arch.specialize.carry_out.iterations_in", lambda minutes, opt: round(10 * minutes))
        assert main([*words, "--quality", "fast", "--minutes", "0.5"]) == 0
    assert "total_iter: 5\n" in (tmp_path / "s_specialize" / "options" / "train.yml").read_text()
    assert not (tmp_path / "s_specialize" / "options" / "trial.yml").exists()


def test_the_ground_truth_tells_what_was_gained(tmp_path, clip, make_video, capsys):
    make_video(tmp_path / "hr.mp4", n=14, w=384, h=256)
    words = ["specialize", str(clip), "--teacher", "PlainSR_x4_50k", "--quality", "fast", "-o", str(tmp_path / "s.pth")]
    assert main([*words, *SMALL, "--hr", str(tmp_path / "hr.mp4")]) == 0
    assert "| to the ground truth |" in capsys.readouterr().out


def test_key_frames_alone_are_decoded_when_asked(tmp_path, make_video):
    make_video(tmp_path / "in.mp4", n=24, options={"g": "6", "keyint_min": "6", "sc_threshold": "0"})
    info = probe(tmp_path / "in.mp4")
    every = list(Decoder(info).frames())
    keys = list(Decoder(info, share="key").frames())
    assert [frame.pts for frame in keys] == [frame.pts for frame in every[::6]]
    numbers = [frame.number for frame in open_source(tmp_path / "in.mp4", "video").frames("key")]
    assert numbers == [0, 6, 12, 18]


@pytest.mark.parametrize(("group", "form"), [(40, "bframes=0"), (40, "bframes=3"), (12, "bframes=3:open-gop=1")])
def test_half_of_a_video_is_what_a_whole_reading_gives_there(tmp_path, make_video, group, form):
    forced = f"keyint={group}:min-keyint={group}:scenecut=0:{form}"
    make_video(tmp_path / "in.mp4", n=240, w=64, h=48, options={"x264-params": forced})
    source = open_source(tmp_path / "in.mp4", "video")
    every = [frame.image for frame in source.frames()]
    half = list(source.frames("half"))
    assert 0.25 * 240 < len(half) < 0.65 * 240 and half[-1].number > 180
    assert all(np.array_equal(frame.image, every[frame.number]) for frame in half)


def test_a_long_video_is_not_read_twice_in_full(tmp_path, make_video, monkeypatch):
    make_video(tmp_path / "in.mp4", n=120, w=64, h=48, options={"g": "40", "sc_threshold": "0"})
    read, whole = [], VideoColor.rgb
    monkeypatch.setattr(VideoColor, "rgb", lambda *args: read.append(1) or whole(*args))
    words = ["upscale", str(tmp_path / "in.mp4"), "-o", str(tmp_path / "out.mp4"), "--specialize", "PlainSR_x4_50k"]
    assert main([*words, "--quality", "fast", "--force", "--frames", "6", "--iters", "2"]) == 0
    assert 120 < len(read) < 1.7 * 120


def test_frames_on_both_sides_of_a_gap_are_no_neighbors():
    images = [np.full((24, 32, 3), 40, np.uint8) for _ in range(6)]
    for number, image in enumerate(images):
        image[8, number : number + 8] = 200
    frames = [Frame(number, "", "", images[number]) for number in (0, 1, 2, 4, 5)]
    found, count, scenes = candidates(frames, 100, 1, 1)
    assert (count, scenes) == (5, 1)
    known = {image.tobytes(): number for number, image in enumerate(images)}
    clips = {one.number: [known[part.tobytes()] for part in one.clip] for one in found}
    assert clips == {0: [0, 0, 1], 1: [0, 1, 2], 2: [1, 2, 2], 4: [4, 4, 5], 5: [4, 5, 5]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tile", "3"), "--tile 3"),
        (("--codec", "nosuch"), "--codec nosuch"),
        (("--image-quality", "90"), "--image-quality 90"),
        (("--outscale", "99"), "--outscale 99"),
        (("--crf", "99"), "--crf 99"),
    ],
)
def test_what_upscaling_cannot_do_is_refused_before_anything_is_taught(words, said, tmp_path, clip, capsys):
    output = tmp_path / "o.mp4"
    assert main(["upscale", str(clip), "-o", str(output), "--specialize", "PlainSR_x4_50k", *SMALL, *words]) == 2
    assert said in capsys.readouterr().err and sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_a_damaged_video_is_taken_in_part_where_that_is_said(tmp_path, make_video, capsys):
    make_video(tmp_path / "whole.mkv", n=100, w=96, h=64)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    words = ["upscale", str(tmp_path / "cut.mkv"), "-o", str(tmp_path / "o.mp4"), "--specialize", "PlainSR_x4_50k"]
    small = ["--frames", "30", *SMALL[2:], "--quality", "fast"]
    assert main([*words, *small]) == 2
    assert "truncated" in capsys.readouterr().err
    assert main([*words, *small, "--partial"]) == 0 and (tmp_path / "o.mp4").exists()
