"""What stays in an experiment folder: the last, the best, what came later than a state that was named, and when."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsr_arch.log import TextLog, get_logger
from kdsr_arch.train import entry
from kdsr_arch.train import trainer as trainer_module
from kdsr_arch.train.checkpoint import load_state
from kdsr_arch.train.run_files import Checkpoints
from kdsr_arch.train.trainer import Trainer
from kdsr_arch.train.validation import Best
from tests.helpers.messages import refuses
from tests.train.conftest import history

MINE = {"name": '"a"'}
REST: dict[str, Any] = {"random": [], "best": {}, "ranking": {}, "meter": [], "ratios": {}, "skipped": [0, 0]}
NET = {"net_g": {"params": {"w": torch.ones(3)}}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def opened(root: Path, keep_last: int = 0, form: str = "pth") -> Checkpoints:
    checkpoints = Checkpoints(root, MINE, keep_last, form)
    checkpoints.make_folders()
    return checkpoints


@contextmanager
def disk_full_beyond(size: int) -> Iterator[None]:
    """Writing past `size` bytes of a file fails, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# ------------------------------------------------------------------------------------------------- the last ones


def test_the_newest_is_never_thinned_out_for_a_later_one_that_lies_about(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path, keep_last=1)
    (tmp_path / "training_states" / "9.state").write_bytes(b"damaged, of an earlier run")
    for iteration in (4, 5):
        checkpoints.save(iteration, NET, {})
    assert names(tmp_path / "training_states") == ["5.state", "9.state"]


def test_networks_whose_state_a_kill_took_go_with_the_next_thinning(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path, keep_last=1)
    checkpoints.save_networks("2", NET)
    checkpoints.save_networks("best_psnr_2", NET)
    checkpoints.save(4, NET, {})
    checkpoints.save(6, NET, {})
    assert names(tmp_path / "models") == ["net_g_6.pth", "net_g_best_psnr_2.pth"]


def test_networks_of_another_format_do_not_stay_beside_newer_ones(tmp_path: Path) -> None:
    opened(tmp_path).save_networks("latest", NET)
    opened(tmp_path, form="safetensors").save_networks("latest", NET)
    assert names(tmp_path / "models") == ["net_g_latest.safetensors"]


# ------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("large", ["networks", "state"])
def test_a_full_disk_leaves_the_last_good_state_and_thins_nothing_out(large, form, tmp_path: Path) -> None:
    checkpoints = opened(tmp_path, keep_last=1, form=form)
    checkpoints.save(4, NET, {"model": {"w": 1}, **REST})
    much = torch.ones(100_000)
    networks = {"net_g": {"params": {"w": much}}} if large == "networks" else NET
    with disk_full_beyond(20_000), refuses("8.state" if large == "state" else f"net_g_8.{form}"):
        checkpoints.save(8, networks, {"model": {"w": much if large == "state" else 1}, **REST})
    assert load_state(tmp_path / "training_states" / "4.state")["model"] == {"w": 1}
    assert names(tmp_path / "training_states") == ["4.state"]
    assert f"net_g_4.{form}" in names(tmp_path / "models")
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("file", ["net_g_8.pth", "8.state", "net_g_best.pth", "best.json", "history.jsonl"])
def test_a_disk_that_fills_up_while_training_costs_one_sentence_and_a_resume(
    file, load, monkeypatch, tmp_path, capsys
) -> None:
    """Each file a run writes in turn is the one for which no room is left, the second time it is written."""
    options = {"val": {"metrics": {"psnr": {"better": "lower"}}}, "logger": {"keep_last": 1}}
    entry.train(load(tmp_path / "whole", **options))
    replace, write, count = os.replace, Trainer.report, [0]

    def no_room(source: Any, target: Any) -> None:
        if Path(target).name == file:
            count[0] += 1
            if count[0] == (1 if "8" in file else 2):
                raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    def short(self: Trainer) -> None:
        limit = (self.checkpoints.root / "history.jsonl").stat().st_size + 10  # a torn line
        if self.position < 6:
            return write(self)
        with disk_full_beyond(limit):
            return write(self)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", no_room)
        if file == "history.jsonl":
            patched.setattr(Trainer, "report", short)
        with refuses(file):
            entry.train(load(tmp_path / "broken", **options))
    assert "Traceback" not in capsys.readouterr().err
    folder, other = (tmp_path / part / "experiments" / "tiny" for part in ("broken", "whole"))
    assert names(folder / "training_states") in (["4.state"], ["8.state"])
    assert entry.train(load(tmp_path / "broken", **options), True) == 0
    assert (folder / "history.jsonl").read_text() == (other / "history.jsonl").read_text()
    assert names(folder / "models") == names(other / "models")
    ours, theirs = (torch.load(f / "training_states" / "8.state", weights_only=True)["model"] for f in (folder, other))
    assert all(torch.equal(v, theirs["net_g"][k]) for k, v in ours["net_g"].items())


def test_no_state_is_promised_where_the_folder_was_removed_meanwhile(load, monkeypatch) -> None:
    opt, original = load(), Trainer.step

    def step(self: Trainer, iteration: int) -> None:
        if iteration == 6:
            shutil.rmtree(opt.folder)
        original(self, iteration)

    monkeypatch.setattr(Trainer, "step", step)
    with refuses("net_g_8.pth", "no state is kept", without=["--auto_resume"]):
        entry.train(opt)


def test_a_text_log_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path: Path, capsys) -> None:
    with TextLog() as log:
        log.open(tmp_path / "x.log")
        with disk_full_beyond(30):
            for _ in range(3):
                get_logger().info("a line of many letters, too long for the disk")
        get_logger().info("there is room again")
    said = capsys.readouterr().err
    assert said.count("x.log: cannot be written") == 1 and "Traceback" not in said
    assert "there is room again" in (tmp_path / "x.log").read_text()


def test_the_text_log_is_bounded(tmp_path: Path, monkeypatch) -> None:
    from kdsr_arch import log as ours

    monkeypatch.setattr(ours, "LOG_BYTES", 2000)
    with TextLog() as log:
        log.open(tmp_path / "x.log")
        for number in range(1000):
            get_logger().info(f"line {number}")
    assert names(tmp_path) == ["x.log", "x.log.1", "x.log.2", "x.log.3"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * 2000
    assert "line 999" in (tmp_path / "x.log").read_text()


# ------------------------------------------------------------------------------------------------- the best ones


def test_ranking_is_by_value_then_by_age_and_never_nan() -> None:
    best = Best()
    values = {1: 5.0, 2: 7.0, 3: float("nan"), 4: 7.0, 5: 6.0}
    for iteration, value in values.items():
        kept = best.rank("psnr", value, iteration, "higher", 3)
    assert kept == [2, 4, 5]
    assert [best.rank("lpips", v, i, "lower", 1) for i, v in values.items()] == [[1], [1], [1], [1], [1]]
    assert not best.update("val", "psnr", float("nan"), 1) and best.update("val", "psnr", 1.0, 2)


@pytest.mark.parametrize("keep", [2, {"psnr": 2, "ssim": 1}])
def test_the_best_are_kept_and_resume_keeps_the_same(keep, run, load, monkeypatch, tmp_path) -> None:
    metrics = {"ssim": {"type": "calculate_ssim", "crop_border": 2}}
    options = {"val": {"val_freq": 1, "metrics": metrics}, "logger": {"keep_best": keep, "keep_last": 1}}
    whole = run(root=tmp_path / "whole", **options)
    values = {r["iter"]: r["psnr"] for r in history(whole) if r["kind"] == "val"}
    best = sorted(values, key=lambda i: (-values[i], i))[:2]
    kept = {name for name in names(whole / "models") if "best_" in name}
    assert {f"net_g_best_psnr_{i}.pth" for i in best} == {n for n in kept if "psnr" in n}
    assert len({n for n in kept if "ssim" in n}) == (1 if isinstance(keep, dict) else 0)
    weights = [
        torch.load(whole / "models" / n, weights_only=True)["params_ema"]
        for n in ("net_g_best.pth", f"net_g_best_psnr_{best[0]}.pth")
    ]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())

    original = Trainer.report

    def die(self: Trainer) -> None:
        if self.position == 6:
            raise KeyboardInterrupt
        original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "report", die)
        with pytest.raises(KeyboardInterrupt):
            entry.train(load(tmp_path / "broken", **options))
    broken = run(True, tmp_path / "broken", **options)
    assert names(broken / "models") == names(whole / "models")


def test_keep_best_of_an_unknown_metric_is_refused(load) -> None:
    with refuses("tiny.yml", "logger.keep_best.pnsr", "val.metrics", near="psnr"):
        load(logger={"keep_best": {"pnsr": 1}})
    with refuses("tiny.yml", "logger.keep_best", "val.metrics"):
        load(val=None, logger={"keep_best": 1})


# ------------------------------------------------------------------------------------------------- by the clock


def test_checkpoints_by_minutes_change_nothing_else(run, monkeypatch, tmp_path) -> None:
    """A clock that moves by 40 seconds an iteration: a checkpoint every second iteration, or after each by freq."""
    whole = run(root=tmp_path / "whole")
    times = iter(range(0, 10_000, 20))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: float(next(times)))
    clocked = run(root=tmp_path / "clocked", logger={"save_checkpoint_minutes": 1})
    saved = {int(path.stem) for path in (clocked / "training_states").iterdir()}
    assert {4, 8} < saved and 1 not in saved
    assert (clocked / "history.jsonl").read_text() == (whole / "history.jsonl").read_text()
    ours, theirs = (torch.load(f / "training_states" / "8.state", weights_only=True)["model"] for f in (whole, clocked))
    assert all(torch.equal(v, theirs["net_g"][k]) for k, v in ours["net_g"].items())
    middle = min(saved)
    path = clocked / "training_states" / f"{middle}.state"
    resumed = run(root=tmp_path / "resumed", path={"resume_state": str(path)})
    theirs = torch.load(resumed / "training_states" / "8.state", weights_only=True)["model"]
    assert all(torch.equal(v, theirs["net_g"][k]) for k, v in ours["net_g"].items())


# ------------------------------------------------------------------------------------------------- going back


def test_an_older_state_sets_the_later_ones_aside(run, tmp_path, capsys) -> None:
    folder = run()
    lines = (folder / "history.jsonl").read_text()
    later = (folder / "training_states" / "8.state").read_bytes()
    state = folder / "training_states" / "4.state"
    run(path={"resume_state": str(state)}, train={"optim_g": {"lr": 1e-2}}, logger={"keep_last": 1})
    assert "later than iteration 4 were set aside" in capsys.readouterr().err
    (aside,) = folder.glob("set_aside_*")
    assert names(aside / "training_states") == ["8.state"]
    assert {"net_g_8.pth", "net_g_latest.pth"} <= set(names(aside / "models"))
    assert (aside / "training_states" / "8.state").read_bytes() == later
    assert (aside / "history.jsonl").read_text() == lines
    assert names(folder / "training_states") == ["8.state"]
    assert (folder / "training_states" / "8.state").read_bytes() != later
    assert [r["iter"] for r in history(folder)] == [3, 4, 6, 8]


def test_with_auto_resume_the_named_state_counts_only_at_the_first_start(run, tmp_path) -> None:
    state = run(root=tmp_path / "source") / "training_states" / "4.state"
    folder = run(True, tmp_path / "other", path={"resume_state": str(state)})
    assert names(folder / "training_states") == ["8.state"]
    run(True, tmp_path / "other", path={"resume_state": str(state)})
    assert not list(folder.glob("set_aside_*"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_state_of_another_experiment_begins_a_new_run(run, tmp_path, capsys) -> None:
    """Neither run loses a file, and the history is that of the run gone on from alone."""
    often = {"logger": {"print_freq": 1, "save_checkpoint_freq": 1, "keep_best": 1}}
    other = run(name="other", **often, train={"optim_g": {"lr": 1e-2}})
    folder = run(**often)
    theirs, ours = content(other), content(folder)
    capsys.readouterr()
    state = other / "training_states" / "5.state"
    run(**often | {"logger": {**often["logger"], "keep_last": 1}}, path={"resume_state": str(state)})
    (archived,) = folder.parent.glob("tiny_archived_*")
    assert content(archived) == ours and content(other) == theirs
    assert archived.name in capsys.readouterr().err
    assert names(folder / "training_states") == ["8.state"]
    kept = [r for r in history(other) if r["iter"] < 5 or (r["iter"] == 5 and r["kind"] == "train")]
    assert history(folder)[: len(kept)] == kept and len(kept) == 6
    assert [r["iter"] for r in history(folder) if r["kind"] == "train"] == [*range(1, 9)]


def test_a_state_of_a_branch_that_was_set_aside_begins_a_new_run(run) -> None:
    often = {"logger": {"print_freq": 1, "save_checkpoint_freq": 2}}
    folder = run(**often)
    first = history(folder)
    run(**often, path={"resume_state": str(folder / "training_states" / "4.state")}, train={"optim_g": {"lr": 1e-2}})
    (aside,) = folder.glob("set_aside_*")
    second = content(folder)
    run(**often, path={"resume_state": str(aside / "training_states" / "6.state")})
    assert history(folder) == first
    (archived,) = folder.parent.glob("tiny_archived_*")
    assert content(archived) == second


def test_a_state_without_a_run_around_it_begins_a_history_of_its_own(run, tmp_path) -> None:
    state = tmp_path / "4.state"
    shutil.copy(run(root=tmp_path / "source") / "training_states" / "4.state", state)
    assert [r["iter"] for r in history(run(path={"resume_state": str(state)}))] == [4, 6, 8]


def test_a_damaged_newer_state_is_set_aside_rather_than_overwritten(run) -> None:
    folder = run()
    (folder / "training_states" / "8.state").write_bytes(b"damaged")
    run(True)
    (aside,) = folder.glob("set_aside_*")
    assert (aside / "training_states" / "8.state").read_bytes() == b"damaged"
