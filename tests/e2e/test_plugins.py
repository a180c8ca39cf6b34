"""A project as BasicSR's users have them: check, train, resume, test, bench, spawned loaders, several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdsr_arch import cli
from kdsr_arch.convert.published import SOURCES
from tests.helpers.images import write_textures
from tests.helpers.plugins import ARCH, FILES, forgotten, write_files
from tests.helpers.processes import environment, free_port

OPTIONS: dict[str, Any] = {
    "name": "own",
    "model_type": "OwnModel",
    "scale": 2,
    "num_gpu": 0,
    "datasets": {
        "train": {"type": "OwnDataset", "use_flip": True, "gt_size": 16, "batch_size_per_gpu": 2,
                  "num_worker_per_gpu": 1},
        "val": {"type": "OwnDataset", "use_flip": False},
    },
    "network_g": {"type": "OwnNet"},
    "train": {
        "total_iter": 4,
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "pixel_opt": {"type": "L1Loss"},
        "distill_opt": {"own": {"type": "OwnLoss", "student": "output", "teacher": "gt", "power": 2.0,
                                "loss_weight": 0.1}},
    },
    "val": {"val_freq": 4, "pbar": False, "speed_size": None,
            "metrics": {"own": {"type": "own_metric", "better": "lower"}}},
    "logger": {"print_freq": 2, "save_checkpoint_freq": 2},
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_files(tmp_path, {**FILES, "options/own.yml": yaml.safe_dump(OPTIONS)})


def _kdsr(*words: object, code: int = 0, capsys: pytest.CaptureFixture[str] | None = None) -> str:
    """Run `kdsr` as if in a process of its own; return its output."""
    with forgotten():
        assert cli.main([str(word) for word in words]) == code
    said = capsys.readouterr() if capsys else None
    return said.out + said.err if said else ""


def _run(folder: Path, *words: object, start: tuple[str, ...] = (), **variables: str) -> str:
    """Run `kdsr` in a process of its own; return its output."""
    command = [sys.executable, *start, "-m", "kdsr_arch.cli", *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_check_train_resume_and_test(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = project / "options" / "own.yml"
    said = _kdsr("check", "-opt", options, capsys=capsys)
    assert "OwnLoss" in said and "archs/own_arch.py" in said
    assert "OwnNet" in _kdsr("list", "networks", "--import", project / "archs", capsys=capsys)
    said = _kdsr("train", "-opt", options, capsys=capsys)
    assert "own" in said and "LR of OwnDataset x2" in said  # not BI, which our own data sets make
    folder = project / "experiments" / "own"
    kept = {str(file.relative_to(folder / "imports")): file.read_text() for file in folder.rglob("*.py")}
    assert kept == FILES

    state = folder / "training_states" / "4.state"
    longer = ["train", "-opt", options, "--auto_resume", "--force_yml", "train:total_iter=6"]
    assert "Imported files" not in _kdsr(*longer, capsys=capsys)
    for later in folder.rglob("*6.*"):
        later.unlink()
    assert state.is_file()
    write_files(project, {"losses/own_loss.py": FILES["losses/own_loss.py"] + "# another\n"})
    said = _kdsr(*longer, capsys=capsys)
    told = [line for line in said.splitlines() if "Imported files" in line]
    assert len(told) == 1 and "losses/own_loss.py" in told[0] and "archs" not in told[0]
    assert (folder / "imports" / "losses" / "own_loss.py").read_text().endswith("# another\n")

    weights = f"path:pretrain_network_g={folder / 'models' / 'net_g_latest.pth'}"
    _kdsr("test", "-opt", options, "--force_yml", weights)
    assert json.loads((project / "results" / "own" / "results.json").read_text())["results"][0]["mean"]["own"] > 0


def test_weights_import_nothing_by_themselves(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _kdsr("train", "-opt", project / "options" / "own.yml")
    folder = project / "experiments" / "own"
    photo = write_textures(project / "photos", 1, 16, 16) / "0.png"
    upscale = ["upscale", photo, "-o", project / "big.png", "--weights", folder / "models" / "net_g_latest.pth"]
    file = project / "archs" / "own_arch.py"
    file.write_text(f"open({str(project / 'ran')!r}, 'w').close()\n{ARCH}")
    said = _kdsr(*upscale, code=2, capsys=capsys)
    assert "OwnNet" in said and f"--import {file}" in said and not (project / "ran").exists()
    for flags in (["--import", file], ["--import", folder / "imports" / "archs" / "own_arch.py"],
                  ["--network", project / "options" / "own.yml"]):  # fmt: skip
        _kdsr(*upscale, "--overwrite", *flags)
    _kdsr("export", upscale[-1], "-o", project / "own.onnx", "-opt", project / "options" / "own.yml")


def test_where_the_project_is_gone_its_record_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "archs").rename(project / "mine")
    write_files(
        project, {"mine/__init__.py": "", "options/own.yml": yaml.safe_dump({**OPTIONS, "imports": "mine.own_arch"})}
    )
    _kdsr("train", "-opt", project / "options" / "own.yml")
    (project / "mine").rename(project / "gone")
    folder = project / "experiments" / "own"
    photo = write_textures(project / "photos", 1, 16, 16) / "0.png"
    upscale = ["upscale", photo, "-o", project / "big.png", "--weights", folder / "models" / "net_g_latest.pth"]
    told = f"--import {folder / 'imports' / 'mine' / 'own_arch.py'}"
    assert told in _kdsr(*upscale, code=2, capsys=capsys)
    _kdsr(*upscale, *told.split())


def test_the_copy_in_an_experiment_imports_its_record(project: Path, tmp_path: Path) -> None:
    """Where the project itself is gone."""
    _kdsr("train", "-opt", project / "options" / "own.yml")
    moved = (project / "experiments" / "own").rename(tmp_path / "moved")
    for room in ("archs", "losses", "data", "models", "metrics"):
        (project / room).rename(project / f"no_{room}")
    _kdsr("check", "-opt", moved / "own.yml")


def test_a_converter_of_ones_own(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from dataclasses import replace\nfrom kdsr_arch.convert.published import SOURCES\n"
    write_files(project, {"mine.py": f"{text}SOURCES['mine'] = replace(SOURCES['carn'], name='mine')\n"})
    try:
        assert "mine " in _kdsr("convert", "list", "--import", project / "mine.py", capsys=capsys)
    finally:
        SOURCES.pop("mine", None)


SPAWN = "import multiprocessing, sys\nmultiprocessing.set_start_method('spawn')\n"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_loader_process_that_inherits_nothing_knows_the_data_set(project: Path, method: str) -> None:
    write_files(project / "site", {"sitecustomize.py": SPAWN.replace("spawn", method)})
    options = project / "options" / "own.yml"
    _run(project.parent, "train", "-opt", options, PYTHONPATH=f"{project / 'site'}:{environment()['PYTHONPATH']}")
    assert (project / "experiments" / "own" / "models" / "net_g_latest.pth").is_file()


@pytest.mark.slow
def test_a_bench_beside_another_projects_base(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its runs are processes of their own, in another folder, and one row imports more."""
    home = tmp_path_factory.mktemp("bench")
    write_files(home, {"more.py": ARCH.replace("OwnNet", "MoreNet"), "other.py": ARCH.replace("OwnNet", "OtherNet")})
    rows = {"own": None, "more": {"imports": ["./more.py", str(project / "losses")], "network_g.type": "MoreNet"},
            "other": {"network_g.type": "OtherNet"}}  # fmt: skip
    bench = {"name": "b", "base": str(project / "options" / "own.yml"), "budgets": [4], "jobs": 2, "rows": rows}
    write_files(home, {"options/b.yml": yaml.safe_dump(bench)})
    (home / "more.py").rename(home / "options" / "more.py")
    _run(home, "bench", home / "options" / "b.yml", "--jobs", "2", "--import", "other.py")
    table = (home / "experiments" / "results" / "b.md").read_text()
    assert all(f"| {row} |" in table for row in rows)


@pytest.mark.slow
def test_a_sequence_and_several_processes(project: Path) -> None:
    weights = "experiments/own/first/models/net_g_latest.pth"
    parts = [{"name": "first"}, {"name": "second", "path": {"pretrain_network_g": weights}}]
    write_files(project, {"options/own.yml": yaml.safe_dump({**OPTIONS, "sequence": parts})})
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}")
    _run(project, "train", "-opt", "options/own.yml", "--launcher", "pytorch", start=torchrun)
    for part in ("first", "second"):
        assert (project / "experiments" / "own" / part / "imports" / "archs" / "own_arch.py").is_file()
