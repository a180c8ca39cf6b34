"""Carries out `kdsr specialize`: choose frames, run the teacher, ask whether it deserves it, teach, tell."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import write_png
from kdsr_arch.io import save_tensors
from kdsr_arch.locks import claimed
from kdsr_arch.log import progress_bar
from kdsr_arch.specialize.choose import LEAST_FRAMES, Candidate, candidates, choose
from kdsr_arch.specialize.frames import Source, open_source
from kdsr_arch.specialize.networks import Network, open_student, open_teacher
from kdsr_arch.specialize.recipe import Teaching, patch_of, write_options
from kdsr_arch.specialize.teach import (
    Scores,
    best_so_far,
    iterations_in,
    load_student,
    read_options,
    run_training,
    score,
    write_student,
)
from kdsr_arch.specialize.telling import Telling, open_truth, tell
from kdsr_arch.specialize.work_folder import WorkFolder, read_rgb
from kdsr_arch.specialize.zoom_out import Verdict, reduced, zoom_out_test
from kdsr_arch.train.distill_model import cpu_copy
from kdsr_arch.upscale.video_input import Share

FRAMES = 40
ITERATIONS = 3000
_CANDIDATES = 8  # for each frame to choose
_KEY_FRAMES_FROM = 2000  # frames of a video whose key frames are tried alone
_HALF_FROM = 4  # times the frames to choose: of a longer video half is read, so that it is not decoded twice in full
_TRIAL = 1000  # iterations of the option file by which steps are timed


@dataclass(frozen=True)
class Request:
    """What is asked for (see ``kdsr specialize --help``).

    Attributes:
        source, kind: the input, and 'video', 'folder' or 'image'.
        output: the student's file, .pth.
        teachers, teacher_network, self_ensemble: see `open_teacher`.
        student, student_network: see `open_student`; None: the shipped student of the teacher's scale.
        frames: to choose; None: 40, or as many as there are.
        iterations, minutes: how long to teach; None: 3,000 iterations.
        ground_truth: a video or folder of the same frames in high resolution, to measure on.
        shipped: names of the students that ship, by their scale.
        reuse: take a student that the same command has taught already.
        scale: that the teacher must have; None: any.
        precision: of the teacher's forward pass: 'auto' (fp16 on CUDA), 'fp32', 'fp16' or 'bf16'.
    """

    source: Path
    kind: str
    output: Path
    teachers: tuple[str, ...]
    teacher_network: str | None = None
    self_ensemble: bool = False
    student: str | None = None
    student_network: str | None = None
    frames: int | None = None
    iterations: int | None = None
    minutes: float | None = None
    zoom_share: float = 0.0
    fft_weight: float = 0.0
    seed: int = 0
    ground_truth: Path | None = None
    sequence: bool = False
    progressive: bool = False
    partial: bool = False
    force: bool = False
    overwrite: bool = False
    device: str = "auto"
    root: Path | None = None
    shipped: dict[int, str] = field(default_factory=dict)
    reuse: bool = False
    scale: int | None = None
    precision: str = "auto"


def work_root(output: Path) -> Path:
    """Return the folder of a student's frames and experiment."""
    return output.with_name(f"{output.stem}_specialize")


def run_specialize(request: Request) -> int:
    """Teach a student and write it; the exit code: that of a signal where one came.

    Raises:
        UserError: anything that the user can mend, or a teacher that does not deserve to be followed.
    """
    check(request)
    with claimed(request.output, "is teaching this student; wait for it, or choose another output"):
        return _run(request)


def check(request: Request) -> None:
    """Refuse what cannot be, before anything is opened."""
    output = request.output
    if output.suffix != ".pth":
        raise UserError(f"{output}: the student is written as .pth; name such a file")
    if output.exists() and not request.overwrite and not request.reuse:
        raise UserError(f"{output}: exists; say --overwrite to replace it, or choose another name")
    if request.iterations is not None and request.minutes is not None:
        raise UserError("--iters and --minutes both say how long to teach; give one of them")
    for name, value, low, high in (
        ("iters", request.iterations, 1, 10**7), ("minutes", request.minutes, 0.1, 10**5),
        ("frames", request.frames, LEAST_FRAMES, 2000), ("zoom-share", request.zoom_share, 0, 0.9),
        ("fft", request.fft_weight, 0, 100), ("seed", request.seed, 0, 2**31 - 1),
    ):  # fmt: skip
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} {value}: expected {low} to {high}")


def _run(request: Request) -> int:
    if request.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available; take --device cpu")
    source = open_source(request.source, request.kind, request.sequence, request.progressive, request.partial)
    device = pick_device(0 if request.device == "cpu" else "auto")
    network, root = request.teacher_network, request.root
    teacher = open_teacher(request.teachers, network, request.self_ensemble, device, root, request.precision)
    if request.scale not in (None, teacher.scale):
        raise UserError(f"--scale {request.scale}: {teacher.label} enlarges by {teacher.scale}")
    if teacher.radius and source.kind == "images":
        raise UserError(
            f"{teacher.label}: restores clips, but {source.path} is a folder of single images; say --sequence where "
            "they are the frames of a video"
        )
    return specialize(request, source, teacher, _student(request, teacher, device))


def specialize(request: Request, source: Source, teacher: Network, student: Network) -> int:
    """Do what `run_specialize` does with a teacher and a student that are open."""
    if request.ground_truth is not None:
        open_truth(request.ground_truth, source, teacher.scale)
    settings = _settings(request, source, teacher, student)
    work = WorkFolder(work_root(request.output), settings, request.overwrite, request.reuse)
    if request.reuse and request.output.exists() and work.state.get("finished"):
        print(f"{request.output}: is taught already", flush=True)
        return 0
    print(f"teacher {teacher.label}, student {student.label}, x{teacher.scale}", flush=True)
    work.tidy()
    try:
        with work.timed():
            verdict = _prepare(request, source, teacher, student, work)
        return _teach(request, source, teacher, student, work, verdict)
    except KeyboardInterrupt:
        print(f"\ninterrupted: what is done is kept in {work.root}; the same command goes on", flush=True)
        raise


def _prepare(request: Request, source: Source, teacher: Network, student: Network, work: WorkFolder) -> Verdict:
    """Choose frames, ask whether the teacher deserves it, and run it."""
    plan = work.plan or _choose(request, source, teacher, work)
    frames = plan["frames"]
    held_out = [frame for frame in frames if frame["held_out"]]
    found = f"{plan['looked_at']:,} frames looked at, {plan['scenes']:,} scene{'s' * (plan['scenes'] != 1)}"
    print(f"{source.path}: {found}; {len(frames)} frames chosen, {len(held_out)} of them held out", flush=True)
    verdict = _judge(request, teacher, student, work, held_out)
    store_labels(work, teacher, frames)
    store_zoom_pairs(work, teacher.scale, held_out if verdict.frames else [])
    store_differences(work, student, frames)
    return verdict


def _student(request: Request, teacher: Network, device: Any) -> Network:
    name = request.student or request.shipped.get(teacher.scale)
    if name is None:
        scales = ", ".join(f"x{scale}" for scale in sorted(request.shipped))
        raise UserError(f"the teacher enlarges by {teacher.scale}, the shipped students by {scales}; give --student")
    return open_student(name, request.student_network, teacher.scale, device, request.root)


def _settings(request: Request, source: Source, teacher: Network, student: Network) -> dict[str, Any]:
    return {
        "input": [*source.stamp(), source.kind], "teacher": [teacher.label, teacher.digests],
        "student": [student.label, student.digests], "frames": request.frames,
        "length": [request.iterations, request.minutes], "zoom_share": request.zoom_share,
        "fft": request.fft_weight, "seed": request.seed, "precision": teacher.restorer.amp,
    }  # fmt: skip


def _choose(request: Request, source: Source, teacher: Network, work: WorkFolder) -> dict[str, Any]:
    """Choose the frames and store them."""
    wanted = request.frames or FRAMES
    found, looked_at, scenes, complete = _look(source, wanted, teacher)
    if not found:
        raise UserError(f"{source.path}: every frame is of one flat color; there is nothing to learn from")
    if request.frames is not None and complete and looked_at < request.frames:
        raise UserError(f"{source.path}: has {looked_at} frames, fewer than --frames {request.frames}; ask for fewer")
    if len(found) < LEAST_FRAMES:
        raise UserError(
            f"{source.path}: has {len(found)} frames that show something; teaching takes {LEAST_FRAMES} at least, so "
            "upscale it with the teacher"
        )
    patch_of(min(min(one.clip[0].shape[:2]) for one in found), teacher.scale, request.zoom_share)
    taught, held_out = choose(found, wanted)
    work.store(taught, held_out, looked_at=looked_at if complete else source.count, scenes=scenes)
    assert work.plan is not None
    return work.plan


def _look(source: Source, wanted: int, teacher: Network) -> tuple[list[Candidate], int, int, bool]:
    """Read the input once, of a video a share if that is enough. Return whether it was all, too."""
    limit = _CANDIDATES * wanted if not teacher.radius else 2 * wanted
    shares: list[Share] = ["all"]
    if source.kind == "video" and source.count >= _HALF_FROM * wanted:
        shares.insert(0, "half")
        if source.count >= _KEY_FRAMES_FROM and not teacher.radius:
            shares.insert(0, "key")
    for share in shares:
        with progress_bar("choosing frames", source.count or None if share == "all" else None) as bar:
            frames = source.frames(share)
            found, looked_at, scenes = candidates(map(_counted(bar), frames), limit, teacher.radius, teacher.scale)
        if share == "all" or len(found) >= (2 * wanted if share == "key" else wanted):
            return found, looked_at, scenes, share == "all"
    raise AssertionError("the last round reads all")


def _counted(bar: Any) -> Any:
    def count(frame: Any) -> Any:
        bar.update()
        return frame

    return count


def _judge(
    request: Request, teacher: Network, student: Network, work: WorkFolder, held_out: Sequence[dict[str, Any]]
) -> Verdict:
    """Do the zoom-out test, once, and decline a teacher that is not better."""
    if "zoom_out" not in work.state:
        work.keep(zoom_out=vars(zoom_out_test(teacher, student, [work.clip(frame) for frame in held_out])))
    verdict = Verdict(**work.state["zoom_out"])
    print(verdict, flush=True)
    if not verdict.deserved and not request.force:
        raise UserError(
            f"{teacher.label}: is not clearly better than the student on this input ({verdict.gain:+.2f} dB in the "
            "zoom-out test), so teaching would not pay; take another teacher, or say --force"
        )
    return verdict


def _teach(
    request: Request, source: Source, teacher: Network, student: Network, work: WorkFolder, verdict: Verdict
) -> int:
    """Train, choose between the start and the best state, and tell."""
    assert student.opened is not None and work.plan is not None
    if not work.start.is_file():
        save_tensors({"params": cpu_copy(student.opened.net.state_dict())}, work.start)
    opt = read_options(_option_file(request, student, work, verdict), work.root)
    with work.timed():
        before = _scores(work, "before", opt, work.start)
        code = run_training(opt)
    best = best_so_far(opt)
    if code:
        kept = f"the best so far is {best}" if best else "no validation was reached yet"
        print(f"interrupted: {kept}; the same command goes on", flush=True)
        return code
    after = score(opt, load_student(opt, best)) if best else before
    better = best is not None and after.both > before.both
    taught = load_student(opt, best if better and best else work.start)
    why = f"{student.label} taught by {teacher.label} on {source.path.name} (kdsr specialize)"
    write_student(request.output, taught.state_dict(), opt.network_g.plain(), teacher.scale, why)
    if not better:
        print("no state was better on the held-out frames than the start: the student is left as it was", flush=True)
    scores = {"before": before, "after": after if better else before}
    tell(Telling(request.output, source, teacher, student, work, scores, verdict), request.ground_truth)
    work.keep(finished=True)
    return 0


def _scores(work: WorkFolder, key: str, opt: Any, path: Path) -> Scores:
    if key not in work.state:
        work.keep(**{key: vars(score(opt, load_student(opt, path)))})
    return Scores(**work.state[key])


def _option_file(request: Request, student: Network, work: WorkFolder, verdict: Verdict) -> Path:
    """Write the option file; with minutes, once it is known how many iterations go into them."""
    assert student.opened is not None and work.plan is not None
    least = min(min(work.clip(frame)[0].shape[:2]) for frame in work.plan["frames"])
    patch = patch_of(least, student.scale, request.zoom_share)
    iterations = request.iterations or ITERATIONS
    if request.minutes is not None and not work.option_file.is_file():
        if "iterations" not in work.state:
            trial = _teaching(request, _TRIAL)
            path = work.root / "options" / "trial.yml"
            write_options(path, work.root, student.opened.network, student.scale, patch, trial, bool(verdict.frames))
            work.keep(iterations=iterations_in(request.minutes, read_options(path, work.root)))
            path.unlink()
        iterations = int(work.state["iterations"])
    teaching = _teaching(request, iterations)
    network, scale = student.opened.network, student.scale
    return write_options(work.option_file, work.root, network, scale, patch, teaching, bool(verdict.frames))


def _teaching(request: Request, iterations: int) -> Teaching:
    on_cpu = request.device == "cpu"
    return Teaching(iterations, request.zoom_share, request.fft_weight, request.seed, 0 if on_cpu else "auto")


# --------------------------------------------------------------------------------- what the teacher makes of the frames


def store_labels(work: WorkFolder, teacher: Network, frames: Sequence[Mapping[str, Any]]) -> None:
    """Run the teacher on each frame that it has not been run on, and remember its seconds for an LR pixel.

    Args:
        work: where they go.
        teacher: restores them.
        frames: of the plan.
    """
    left = [frame for frame in frames if not work.teachers(frame["number"], frame["held_out"]).is_file()]
    with progress_bar(f"teacher {teacher.label}", len(frames), done=len(frames) - len(left)) as bar:
        for frame in left:
            clip, began = work.clip(frame), time.perf_counter()
            restored = teacher.restore(clip)
            spent = time.perf_counter() - began
            write_png(work.teachers(frame["number"], frame["held_out"]), restored[..., ::-1])
            seconds, pixels = work.state.get("teacher", [0.0, 0])
            work.keep(teacher=[seconds + spent, pixels + restored.shape[0] * restored.shape[1] // teacher.scale**2])
            bar.update()


def store_differences(work: WorkFolder, student: Network, frames: Sequence[Mapping[str, Any]]) -> None:
    """Write, for each frame to teach on, how far student and teacher differ at each LR pixel, brightest where most.

    Args:
        work: holds the teacher's frames.
        student: as it is at the start.
        frames: of the plan; those held out are passed over.
    """
    for frame in frames:
        number = frame["number"]
        if frame["held_out"] or work.difference(number).is_file():
            continue
        theirs, ours = read_rgb(work.teachers(number, False)), student.restore([read_rgb(work.lq(number, False))])
        write_png(work.difference(number), difference_map(theirs, ours, student.scale))


def difference_map(first: NDArray[np.uint8], second: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Return the mean absolute difference of two (H, W, 3) images, by LR pixel: (h, w, 1), 255 where it is largest."""
    error = cv2.absdiff(first, second).astype(np.float32).mean(axis=2)
    small = error.reshape(error.shape[0] // scale, scale, error.shape[1] // scale, scale).mean(axis=(1, 3))
    return np.rint(255 * small / max(float(small.max()), 1e-6)).astype(np.uint8)[..., None]


def store_zoom_pairs(work: WorkFolder, scale: int, frames: Sequence[Mapping[str, Any]]) -> None:
    """Write each held-out frame reduced once more, and itself as the truth, for the validations."""
    for frame in frames:
        if frame["held_out"]:
            paths, images = work.zoom(frame["number"]), reduced(read_rgb(work.lq(frame["number"], True)), scale)
            for path, image in zip(paths, images, strict=True):
                if not path.is_file():
                    write_png(path, image[..., ::-1])
