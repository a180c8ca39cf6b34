"""The demo: a student trained alone and with space-time distillation, compared on held-out frames, in pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kdsr_arch.bench.subcommands import start
from kdsr_arch.errors import UserError
from kdsr_arch.evaluate.results import TestReport
from kdsr_arch.infer.cost import where_run
from kdsr_arch.train.history import read_history

ALONE, TAUGHT, TEST = "options/demo_alone.yml", "options/train_std.yml", "options/test_std.yml"
_EQUAL = ("scale", "manual_seed", "datasets.train", "network_g", "train.total_iter", "train.optim_g", "train.pixel_opt")


@dataclass(frozen=True)
class Training:
    """One training run of the demo.

    Attributes:
        label: what the page calls it.
        file: its option file.
        opt: the validated options.
        log: where its output goes.
        force: what ``--force_yml`` changes in the file.
    """

    label: str
    file: Path
    opt: dict[str, Any]
    log: Path
    force: tuple[str, ...] = ()

    @property
    def experiment(self) -> Path:
        return Path(self.opt["path"]["experiments_root"])

    @property
    def total(self) -> int:
        return int(self.opt["train"]["total_iter"])

    @property
    def weights(self) -> Path:
        return self.experiment / "models" / "net_g_latest.pth"

    @property
    def resumable(self) -> bool:
        """Whether the experiment folder holds a run of the very same option file; of any other, none is continued."""
        copy = self.experiment / self.file.name
        return copy.is_file() and copy.read_text(encoding="utf-8").endswith(self.file.read_text(encoding="utf-8"))

    def position(self) -> int:
        """The last iteration that was logged."""
        return max((record.get("iter", 0) for record in read_history(self.experiment)), default=0)


@dataclass(frozen=True)
class Row:
    """One network of the comparison.

    Attributes:
        key: short name, also of its folder.
        label: what tables and pictures call it.
        report: what the test measured.
        frames: folder of its restored frames, ``DATASET/CLIP/FRAME.png``.
        taught: whether a teacher helped to train it.
    """

    key: str
    label: str
    report: TestReport
    frames: Path
    taught: bool = False


def run_demo(root: Path, out: Path, iterations: int | None = None) -> Path:
    """Prepare the clips, train both students, test the four networks, write tables, pictures and the page.

    Args:
        root: the project's folder, which holds ``options/``; ``datasets/`` and ``experiments/`` go there.
        out: folder for the results.
        iterations: overrides the option files' ``train.total_iter``, for a quick look.

    Returns:
        The page.

    Raises:
        UserError: missing option files or packages, or a training that failed.
    """
    from kdsr_arch.data.prepare.demo_data import make_demo_clips
    from kdsr_arch.options import load_options, plain
    from kdsr_arch.report.demo_page import write_page

    _check_plots()
    began = time.monotonic()
    print("Demo: preparing the clips", flush=True)
    make_demo_clips(root / "datasets" / "demo")
    trainings = [
        plan(label, root / file, out, iterations)
        for label, file in (("student alone", ALONE), ("student + STD", TAUGHT))
    ]
    check_fair(*(training.opt for training in trainings))
    train_all(trainings)
    base = plain(load_options(root / TEST, is_train=False))
    rows = test_all(base, out, trainings)
    page = write_page(rows, {training.label: training for training in trainings}, _clips(base), out)
    print(f"Done in {(time.monotonic() - began) / 60:.1f} minutes: {page}", flush=True)
    return page


def _check_plots() -> None:
    """Missing matplotlib is told before minutes of training, not after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("the demo draws with matplotlib, which is not installed: pip install 'kdsr[demo]'") from None


def plan(label: str, file: Path, out: Path, iterations: int | None) -> Training:
    """One training from its option file; with its own name where the budget is not the file's."""
    from kdsr_arch.options import load_options, plain

    changes = () if iterations is None else (f"train:total_iter={iterations}", f"name={file.stem}_{iterations}")
    opt = plain(load_options(file, is_train=True, force=changes))
    return Training(label, file, opt, out / f"{file.stem}.log", changes)


def _at(opt: Mapping[str, Any], dotted: str) -> Any:
    value: Any = opt
    for key in dotted.split("."):
        value = (value or {}).get(key)
    return value


def check_fair(alone: Mapping[str, Any], taught: Mapping[str, Any]) -> None:
    """Refuse to compare two trainings that differ in more than the teaching."""
    for key in _EQUAL:
        if _at(alone, key) != _at(taught, key):
            raise UserError(
                f"{ALONE} and {TAUGHT} differ in {key}; the demo compares students of one budget, one seed "
                "and one data set: make them equal"
            )


def train_all(trainings: Sequence[Training]) -> None:
    """Train side by side where there are cores for it, with a bar for each; interrupted runs go on where they were.

    Raises:
        UserError: a training failed; its last lines are shown.
    """
    cores = len(os.sched_getaffinity(0))
    beside = min(len(trainings), cores)
    threads = max(cores // beside, 1)
    names = ", ".join(training.label for training in trainings)
    print(f"Demo: training {names} ({beside} at a time, {where_run('cpu', threads)} each)", flush=True)
    for first in range(0, len(trainings), beside):
        _train_group(trainings[first : first + beside], threads)


def _start(training: Training, threads: int) -> subprocess.Popen:
    command = ["train", "-opt", str(training.file)]
    command += ["--auto_resume"] if training.resumable else []
    command += ["--force_yml", *training.force] if training.force else []
    training.log.parent.mkdir(parents=True, exist_ok=True)
    with open(training.log, "w", encoding="utf-8") as log:
        return start(command, threads, output=log)


def _train_group(group: Sequence[Training], threads: int) -> None:
    running = [(training, _start(training, threads)) for training in group]
    bars = [
        tqdm(
            total=training.total,
            desc=training.label,
            position=place,
            unit="it",
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
        )
        for place, training in enumerate(group)
    ]
    try:
        while any(process.poll() is None for _, process in running):
            time.sleep(1.0)
            for bar, training in zip(bars, group, strict=True):
                bar.update(max(training.position() - bar.n, 0))
            if any(process.poll() for _, process in running):
                break
    finally:
        for bar in bars:
            bar.close()
        failed = [training for training, process in running if process.poll()]  # by itself, not ended here
        for _, process in running:
            if process.poll() is None:  # another one failed, or this process was interrupted
                process.terminate()  # saves and leaves; a later demo resumes it
        for _, process in running:
            process.wait()
    for training in failed:
        tail = training.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        raise UserError(f"training '{training.label}' failed (all of it: {training.log}):\n" + "\n".join(tail))


def _clips(base: Mapping[str, Any]) -> Any:
    from kdsr_arch.data.loader import open_dataset
    from kdsr_arch.evaluate.tester import test_keys

    key = test_keys(base)[0]
    return open_dataset(base["datasets"][key], f"datasets.{key}")


def test_all(base: Mapping[str, Any], out: Path, trainings: Sequence[Training]) -> list[Row]:
    """Test bicubic, the students and the teacher on the held-out frames, one after another.

    Args:
        base: the validated options of the test; network and weights are put in for each row.
        out: each row's own tables and frames go into a folder of this one.
        trainings: the student alone and the student with the teacher.
    """
    from kdsr_arch.log import TextLog

    taught = trainings[-1].opt
    scale = base["scale"]
    specs = [
        ("bicubic", "bicubic", {"type": "Bicubic", "scale": scale}, None, None),
        *(
            (training.file.stem, training.label, training.opt["network_g"], training.weights, "params_ema")
            for training in trainings
        ),
        (
            "teacher",
            "teacher",
            taught["network_t"],
            taught["path"]["pretrain_network_t"],
            taught["path"].get("param_key_t"),
        ),
    ]
    rows = []
    with TextLog():
        for key, label, network, weights, param_key in specs:
            print(f"Demo: testing {label}", flush=True)
            rows.append(_test(base, key, label, network, weights, param_key, out))
    return rows


test_all.__test__ = False  # type: ignore[attr-defined]  # not a test case


def _test(
    base: Mapping[str, Any],
    key: str,
    label: str,
    network: Mapping[str, Any],
    weights: Any,
    param_key: str | None,
    out: Path,
) -> Row:
    from kdsr_arch.evaluate.tester import run

    opt = deepcopy(dict(base))
    opt["name"], opt["network_g"] = f"demo/{key}", dict(network)
    opt["path"] |= {
        "pretrain_network_g": str(weights) if weights else None,
        "param_key_g": param_key,
        "results_root": str(out / key),
    }
    opt["val"]["save_img"] = True
    return Row(key, label, run(opt), out / key / "visualization", taught=key == Path(TAUGHT).stem)
