"""Trains the demo's student alone and with space-time distillation, and tests both on held-out frames."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from kdsr_arch.demo.page import Row, write_demo
from kdsr_arch.errors import UserError
from kdsr_arch.infer.cost import where_run
from kdsr_arch.io import option_file
from kdsr_arch.log import TextLog, progress_bar
from kdsr_arch.options import Options, load_options, project_root
from kdsr_arch.options.schema import NetworkOptions, ValOptions
from kdsr_arch.parallel.subcommands import Subcommands
from kdsr_arch.records import available_cores
from kdsr_arch.report.style import require_matplotlib
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
        total: the number of iterations.
        force: what ``--force_yml`` changes in the file.
    """

    label: str
    file: Path
    opt: Options
    total: int
    force: tuple[str, ...] = ()

    @property
    def weights(self) -> str:
        """The file of the trained student."""
        return str(self.opt.folder / "models" / "net_g_latest.pth")

    @property
    def command(self) -> list[str]:
        """The kdsr command that runs it; it resumes a run of the very same option file, and of no other."""
        copy = self.opt.folder / self.file.name
        same = copy.is_file() and copy.read_text(encoding="utf-8").endswith(self.file.read_text(encoding="utf-8"))
        force = ["--force_yml", *self.force] if self.force else []
        return ["train", "-opt", str(self.file), *(["--auto_resume"] if same else []), *force]


def run_demo(out: Path | None = None, iterations: int | None = None) -> Path:
    """Prepare the clips, train both students, test the four networks, write tables, pictures and the page.

    Args:
        out: folder for the results; ``results/demo`` in the folder of the option files by default.
        iterations: overrides the option files' ``train.total_iter``, for a quick look.

    Returns:
        The page.

    Raises:
        UserError: missing option files or packages, or a training that failed.
    """
    from kdsr_arch.data.loader import open_dataset
    from kdsr_arch.data.prepare.demo_data import make_demo_clips

    require_matplotlib()
    began, root = time.monotonic(), project_root(option_file(TEST))
    out = out or root / "results" / "demo"
    print("Demo: preparing the clips", flush=True)
    make_demo_clips(root / "datasets" / "demo")
    alone, taught = plan("student alone", ALONE, iterations), plan("student + STD", TAUGHT, iterations)
    check_fair(alone.opt, taught.opt)
    train_all([alone, taught], out)
    test = load_options(option_file(TEST), is_train=False)
    rows = test_all(test, out, alone, taught)
    key, section = next(iter(test.phase("test").items()))
    page = write_demo(rows, open_dataset(section, f"datasets.{key}"), out, taught.total)
    print(f"Done in {(time.monotonic() - began) / 60:.1f} minutes: {page}", flush=True)
    return page


def plan(label: str, name: str, iterations: int | None) -> Training:
    """Read one training from its option file; give it a name of its own where the budget is not the file's."""
    file = option_file(name)
    changes = () if iterations is None else (f"train:total_iter={iterations}", f"name={file.stem}_{iterations}")
    opt = load_options(file, is_train=True, force=changes)
    return Training(label, file, opt, opt.train.total_iter, changes)


def check_fair(alone: Options, taught: Options) -> None:
    """Refuse to compare two trainings that differ in more than the teaching."""
    for key in _EQUAL:
        first, second = alone.plain(), taught.plain()
        for part in key.split("."):
            first, second = first[part], second[part]
        if first != second:
            raise UserError(
                f"{ALONE} and {TAUGHT} differ in {key}; the demo compares students of one budget, one seed "
                "and one data set: make them equal"
            )


def train_all(trainings: Sequence[Training], out: Path) -> None:
    """Train side by side where there are cores for it, with a bar for each; interrupted runs are resumed.

    A failure or an interrupt stops the other trainings, which save; a later demo resumes them.

    Args:
        trainings: what to train.
        out: folder for their logs.

    Raises:
        UserError: a training failed; its last lines are shown.
    """
    cores = available_cores()
    beside = min(len(trainings), cores)
    work = Subcommands(None, max(cores // beside, 1))
    names = ", ".join(training.label for training in trainings)
    print(f"Demo: training {names} ({beside} at a time, {where_run('cpu', work.threads)} each)", flush=True)
    with ThreadPoolExecutor(beside) as pool, contextlib.ExitStack() as stack:
        bars = [
            stack.enter_context(progress_bar(training.label, training.total, "it", position=place))
            for place, training in enumerate(trainings)
        ]
        logs = [out / f"{training.file.stem}.log" for training in trainings]
        running = {pool.submit(work.run, t.command, log): (t, log) for t, log in zip(trainings, logs, strict=True)}
        try:
            while running:
                ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for bar, training in zip(bars, trainings, strict=True):
                    logged = max((record["iter"] for record in read_history(training.opt.folder)), default=0)
                    bar.update(max(logged - bar.n, 0))
                for future in ended:
                    (training, log), tail = running.pop(future), future.result()
                    if tail is not None:
                        raise UserError(f"training '{training.label}' failed (all of it: {log}):\n{tail}")
        except BaseException:
            work.stop()
            raise


def test_all(base: Options, out: Path, alone: Training, taught: Training) -> list[Row]:
    """Test bicubic, the students and the teacher on the held-out frames, one after another.

    Args:
        base: the validated options of the test; network and weights are put in for each row.
        out: each row's own tables and frames go into a folder of this one.
        alone, taught: the student's trainings without and with the teacher.
    """
    from kdsr_arch.evaluate.tester import run

    path, teacher = taught.opt.path, taught.opt.network_t or taught.opt.network_g
    bicubic = NetworkOptions.model_validate({"type": "Bicubic", "scale": base.scale})
    networks = {
        "bicubic": ("bicubic", bicubic, None, None),
        "alone": (alone.label, alone.opt.network_g, alone.weights, "params_ema"),
        "taught": (taught.label, taught.opt.network_g, taught.weights, "params_ema"),
        "teacher": ("teacher", teacher, path.pretrain_network_t, path.param_key_t),
    }
    trained = {"alone": (alone.opt.folder, ALONE), "taught": (taught.opt.folder, TAUGHT)}
    rows = []
    with TextLog():
        for key, (label, network, weights, param_key) in networks.items():
            print(f"Demo: testing {label}", flush=True)
            opt = base.model_copy(deep=True)
            opt.name, opt.network_g, opt.val = f"demo/{key}", network, (opt.val or ValOptions())
            opt.path.pretrain_network_g, opt.path.param_key_g, opt.val.save_img = weights, param_key, True
            rows.append(Row(key, label, run(opt, out / key), out / key, *trained.get(key, ())))
    return rows


test_all.__test__ = False  # type: ignore[attr-defined]  # not a test case
