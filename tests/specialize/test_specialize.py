"""A student taught on a folder of frames: what is written, gone on from, and refused."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.errors import UserError
from kdsr_arch.infer.open import open_network
from kdsr_arch.specialize import carry_out as module
from kdsr_arch.specialize.carry_out import Request, check, difference_map, specialize, work_root
from kdsr_arch.specialize.frames import open_source
from kdsr_arch.specialize.networks import Network, open_student, open_teacher
from kdsr_arch.specialize.teach import iterations_in, read_options
from kdsr_arch.specialize.zoom_out import Verdict, reduced, zoom_out_test
from tests.helpers.messages import refuses
from tests.helpers.restorers import small_restorer
from tests.specialize.conftest import STUDENT

CPU = torch.device("cpu")


@pytest.fixture
def request_(clip_folder, spoiled_student, tmp_path):
    return Request(
        clip_folder, "folder", tmp_path / "taught.pth", ("bicubic",), student=str(spoiled_student), iterations=20,
        frames=10, sequence=True, device="cpu",
    )  # fmt: skip


def bicubic():
    return Network("bicubic", small_restorer("bicubic", overlap=0), ["-"])


def teach(request, teacher=None):
    source = open_source(request.source, request.kind, request.sequence)
    student = open_student(request.student, None, 2, CPU)
    return specialize(request, source, teacher or bicubic(), student)


def test_the_student_comes_nearer_to_the_teacher_and_is_what_upscale_takes(request_, capsys):
    assert teach(request_) == 0
    report = json.loads((work_root(request_.output) / "report.json").read_text())
    scores = report["scores"]
    assert (
        scores["after"]["both"] > scores["before"]["both"] and scores["after"]["teacher"] > scores["before"]["teacher"]
    )
    opened = open_network(request_.output)
    assert opened.network == STUDENT and opened.traits.scale == 2
    assert "12 frames looked at, 2 scenes; 10 frames chosen, 2 of them held out" in capsys.readouterr().out
    page = (work_root(request_.output) / "report.html").read_text()
    assert page.count("<figure>") == 2 and "specialized" in page


def test_the_start_is_a_candidate(request_, tmp_path):
    """A student that is the teacher already can only become worse."""
    net = open_network(request_.student).net
    with torch.no_grad():
        net.tail.weight.zero_()
        net.tail.bias.zero_()
    torch.save({"params": net.state_dict()}, request_.student)
    assert teach(replace(request_, force=True)) == 0
    taught = open_network(request_.output).net.state_dict()
    assert all(torch.equal(taught[name], value) for name, value in net.state_dict().items())


def test_a_run_broken_off_goes_on(request_, monkeypatch):
    """The teacher is run on no frame twice, and the training begins where the first run left."""
    teacher, calls = bicubic(), []

    class Dying(Network):
        def restore(self, clip):
            calls.append(1)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return super().restore(clip)

    dying = Dying("bicubic", teacher.restorer, ["-"])
    with pytest.raises(KeyboardInterrupt):
        teach(request_, dying)
    assert not request_.output.exists()
    assert teach(request_, dying) == 0
    assert len(calls) == 2 + 10 + 1  # two held-out frames in the zoom-out test, ten frames, and the call that died


def test_an_interrupted_training_keeps_the_best_and_says_how_to_go_on(request_, monkeypatch, capsys):
    train = module.run_training
    monkeypatch.setattr(module, "run_training", lambda opt: train(opt) or 130)
    assert teach(request_) == 130
    said = capsys.readouterr().out
    assert "net_g_best.pth" in said and "the same command goes on" in said and not request_.output.exists()
    monkeypatch.setattr(module, "run_training", train)
    assert teach(request_) == 0 and request_.output.exists()


def test_a_full_disk_costs_one_sentence_and_nothing_that_was_done(request_, monkeypatch):
    """The disk is full at the fifth of the teacher's frames."""
    write, count = module.write_png, []

    def full(path, image):
        count.append(path)
        if len(count) == 5:
            raise UserError(f"{path}: cannot be written (no space left on the device)")
        write(path, image)

    monkeypatch.setattr(module, "write_png", full)
    with refuses("no space left"):
        teach(request_)
    assert not request_.output.exists()
    assert teach(request_) == 0
    assert len([path for path in count if path.parent.name == "teacher"]) == 10 + 1


def test_a_recurrent_teacher_runs_on_a_short_clip_around_each_frame(request_, clip_folder):
    restorer = small_restorer("recurrent", overlap=0)
    assert teach(replace(request_, iterations=2, force=True), Network("recurrent", restorer, ["-"])) == 0
    work = work_root(request_.output)
    images = [cv2.imread(str(path))[..., ::-1] for path in sorted(clip_folder.iterdir())]
    for frame in json.loads((work / "plan.json").read_text())["frames"]:
        n, first = frame["number"], 6 * (frame["number"] // 6)  # the scene's
        around = [images[min(max(i, first), first + 5)] for i in range(n - 5, n + 6)]
        wanted = Network("recurrent", restorer, []).restore([np.ascontiguousarray(image) for image in around])
        folder = work / ("held_out/gt/teacher" if frame["held_out"] else "frames/teacher")
        assert np.array_equal(cv2.imread(str(folder / f"{n:07d}.png"))[..., ::-1], wanted)


def test_other_settings_are_refused_and_overwritten_when_asked(request_):
    teach(replace(request_, iterations=5))
    request_.output.unlink()
    with refuses("length", "--overwrite"):
        teach(replace(request_, iterations=6))
    assert teach(replace(request_, iterations=6, overwrite=True)) == 0


def test_overwrite_goes_on_with_what_was_broken_off(request_, monkeypatch):
    request = replace(request_, overwrite=True)
    train = module.run_training
    monkeypatch.setattr(module, "run_training", lambda opt: 130)
    teach(request)
    stored = work_root(request.output) / "start.pth"
    before = stored.stat().st_mtime_ns
    monkeypatch.setattr(module, "run_training", train)
    assert teach(request) == 0 and stored.stat().st_mtime_ns == before
    assert teach(request) == 0 and stored.stat().st_mtime_ns > before


def test_minutes_are_turned_into_iterations_by_timing_a_few(request_):
    teach(request_)
    opt = read_options(work_root(request_.output) / "options" / "train.yml", work_root(request_.output))
    assert opt.num_gpu == 0
    few, many = iterations_in(0.1, opt), iterations_in(1000.0, opt)
    assert 100 <= few < many <= 200_000


def test_a_changed_option_file_is_trained(request_):
    with pytest.raises(UserError, match="no such loss"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_training", lambda opt: (_ for _ in ()).throw(UserError("no such loss")))
        teach(request_)
    file = work_root(request_.output) / "options" / "train.yml"
    file.write_text(file.read_text().replace("total_iter: 20", "total_iter: 21").replace("[20]", "[21]"))
    assert teach(request_) == 0
    states = work_root(request_.output) / "experiments" / "specialize" / "training_states"
    assert [path.name for path in states.iterdir()] == ["21.state"]


def test_a_teacher_no_better_than_the_student_is_declined(request_, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "zoom_out_test", lambda *_: Verdict(30.0, 29.99, 8))
    with refuses("--force", "+0.01"):
        teach(request_)
    assert not request_.output.exists()
    assert teach(replace(request_, force=True)) == 0


def test_the_zoom_out_test_tells_the_better_network(clip_folder, spoiled_student):
    clips = [[cv2.resize(cv2.imread(str(path)), (96, 96))] for path in sorted(clip_folder.iterdir())[:3]]
    student = open_student(str(spoiled_student), None, 2, CPU)
    verdict = zoom_out_test(bicubic(), student, clips)
    assert verdict.frames == 3 and verdict.deserved and verdict.gain > 0
    assert not zoom_out_test(student, bicubic(), clips).deserved
    small = zoom_out_test(bicubic(), student, [[clip[0][:20, :20]] for clip in clips])
    assert small.frames == 0 and small.deserved


def test_reducing_cuts_to_multiples():
    image = np.zeros((51, 34, 3), np.uint8)
    small, whole = reduced(image, 4)
    assert small.shape == (12, 8, 3) and whole.shape == (48, 32, 3)


def test_difference_maps_are_of_the_lr_size_and_brightest_where_most():
    first, second = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    second[2:4, 4:6], second[6:, 6:] = 40, 20
    found = difference_map(first, second, 2)[..., 0]
    assert found.shape == (4, 4) and found[1, 2] == 255 and found[3, 3] == 128 and found.sum() == 383


def test_bad_input_is_one_sentence(request_, clip_folder, tmp_path):
    with refuses("--frames", "12"):
        teach(replace(request_, frames=13))
    with refuses(tmp_path / "one.png", "one picture"):
        open_source(tmp_path / "one.png", "image")
    for path in clip_folder.iterdir():
        cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    with refuses(clip_folder, "flat color"):
        teach(replace(request_, output=tmp_path / "black.pth"))
    with refuses("--iters", "--minutes"):
        check(replace(request_, minutes=1.0))
    request_.output.write_bytes(b"")
    with refuses(request_.output, "--overwrite"):
        check(request_)


def test_teachers_of_another_scale_are_refused(spoiled_student):
    with refuses("x2", "x4"):
        open_teacher([str(spoiled_student), "PlainSR_x4_20k"], None, False, CPU)
    with refuses(2, 4):
        open_student(str(spoiled_student), None, 4, CPU)


def test_several_teachers_are_their_mean(spoiled_student):
    image = np.full((16, 16, 3), 100, np.uint8)
    image[4:9, 3:12] = 180
    both = open_teacher(["PlainSR_x4_20k", "PlainSR_x4_50k"], None, False, CPU).restore([image])
    alone = [open_student(n, None, 4, CPU).restore([image]).astype(float) for n in ("PlainSR_x4_20k", "PlainSR_x4_50k")]
    assert np.abs(both - np.mean(alone, 0)).max() <= 1  # each is rounded


def test_a_network_that_fails_on_odd_sizes_is_given_padded_frames():
    class Fussy(torch.nn.Module):
        traits = small_restorer("bicubic").traits

        def forward(self, x):
            if x.shape[-1] % 16:
                raise RuntimeError("sizes must match")
            return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    restorer = small_restorer("bicubic", overlap=0)
    restorer.runner = type(restorer.runner)(Fussy(), Fussy.traits)
    image = np.random.default_rng(0).integers(0, 256, (20, 21, 3), dtype=np.uint8)
    assert np.array_equal(Network("fussy", restorer, []).restore([image]), image.repeat(2, 0).repeat(2, 1))
