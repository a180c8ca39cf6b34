"""The command line: first line, exit codes, sentences instead of tracebacks."""

import argparse
import errno
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from kdsr_arch import __version__, cli
from kdsr_arch.errors import OptionErrors, UserError
from tests.helpers import ROOT

BAD = """\
name: bad
model_type: SRModle
scale: 4
datasets:
  train: {type: PairedImageDataset, gt_size: 30, batch_size_per_gpu: 0}
network_g: {type: MSRResNet, num_feet: 8}
train: {total_iter: 10, optim_g: {type: Adam, lr: -1}, pixel_opt: {type: L1Loss}}
"""


def run(*words: str, cwd: Path, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    start = [str(ROOT / "basicsr" / f"{script}.py")] if script else ["-m", "kdsr_arch.cli"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if script:
        environment.pop("PYTHONPATH")  # the launchers find the package by themselves
    return subprocess.run(
        [sys.executable, *start, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_bad_file_lists_its_faults(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yml").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-opt", "bad.yml"]) == 2
    out, error = capsys.readouterr()
    assert out == f"KDSR {__version__}: reading bad.yml\n"
    assert error.startswith("error: bad.yml: 5 faults in the options\n")
    for key in (
        "model_type",
        "datasets.train.gt_size",
        "datasets.train.batch_size_per_gpu",
        "network_g.num_feet",
        "train.optim_g.lr",
    ):
        assert f"  - {key}: " in error
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yml"]


@pytest.mark.parametrize("script", ["train", "test"])
def test_launchers_run_from_any_folder(tmp_path: Path, script: str) -> None:
    done = run("--help", cwd=tmp_path, script=script)
    assert done.returncode == 0 and f"kdsr {script}" in done.stdout and "--launcher" in done.stdout
    done = run("-opt", "none.yml", cwd=tmp_path, script=script)
    assert done.returncode == 2 and done.stderr == "error: none.yml: there is no such option file\n"


@pytest.mark.slow
def test_launchers_reach_the_installed_basicsr(tmp_path: Path) -> None:
    """The repository's basicsr/ folder must not stand in for the package: its registries are asked here."""
    (tmp_path / "bad.yml").write_text(BAD)
    done = run("-opt", "bad.yml", cwd=tmp_path, script="train")
    assert done.returncode == 2 and "there is no model named 'SRModle' (did you mean 'SRModel'" in done.stderr
    assert not (ROOT / "basicsr" / "__init__.py").exists()


def test_first_line_comes_before_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from kdsr_arch import cli\n"
        "cli.main(['train', '-opt', 'none.yml'])\n"
        "assert 'torch' not in sys.modules and 'basicsr' not in sys.modules\n"
        "print(time.perf_counter() - start)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 4


def test_check_explains_without_an_option_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--explain", "train.total_iter"]) == 0
    assert "Number of iterations." in capsys.readouterr().out
    assert cli.main(["check", "--schema"]) == 0
    assert '"KDSR option file"' in capsys.readouterr().out
    assert cli.main(["check"]) == 2
    assert "needs an option file" in capsys.readouterr().err


def test_check_without_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (
        BAD.replace("SRModle", "SRModel")
        .replace("30", "32")
        .replace("gpu: 0", "gpu: 1")
        .replace("feet", "feat")
        .replace("-1", "1e-3")
    )
    path = tmp_path / "good.yml"
    path.write_text(good)
    assert cli.main(["check", "-opt", str(path), "--no-dry-run"]) == 0, capsys.readouterr().err
    assert "the options are sound" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("words", [["frob"], [], ["train"], ["train", "-opt", "a", "--launcher", "mpi"]])
def test_wrong_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2 and "usage: kdsr" in capsys.readouterr().err


def test_help_offers_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    offered = capsys.readouterr().out
    modules = {path.stem for path in (ROOT / "kdsr_arch" / "commands").glob("*.py")} - {"__init__", "common"}
    names = {name.replace("_", "-") for name in modules}
    assert set(cli.commands()) == names and list(cli.commands())[:3] == ["train", "test", "check"]
    for name, text in cli.commands().items():
        assert len(text) > 10 and re.search(rf"\n    {name}\s", offered)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("data root a/b is missing"), 2, "error: data root a/b is missing\n"),
        (
            OptionErrors(["a: is wrong", "b: is wrong"], "f.yml"),
            2,
            "error: f.yml: 2 faults in the options\n  - a: is wrong\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/1.pth"),
            2,
            "error: no space left on the disk to write x/1.pth",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/y"), 2, "error: no permission to use /y"),
        (OSError(errno.EROFS, "Read-only file system", "/y"), 2, "error: no permission to use /y"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    module = types.SimpleNamespace(add_arguments=lambda parser: None, run=fail)
    monkeypatch.setitem(sys.modules, "kdsr_arch.commands.train", module)  # type: ignore[arg-type]
    monkeypatch.setattr(cli, "commands", lambda: {"train": "x"})
    assert cli.main(["train"]) == code
    assert words in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    module = types.SimpleNamespace(add_arguments=lambda parser: None, run=fail)
    monkeypatch.setitem(sys.modules, "kdsr_arch.commands.train", module)  # type: ignore[arg-type]
    monkeypatch.setattr(cli, "commands", lambda: {"train": "x"})
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main(["train"])


def test_the_return_code_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for returned, code in ((None, 0), (0, 0), (3, 3)):
        module = types.SimpleNamespace(add_arguments=lambda parser: None, run=lambda args, value=returned: value)
        monkeypatch.setitem(sys.modules, "kdsr_arch.commands.train", module)  # type: ignore[arg-type]
        monkeypatch.setattr(cli, "commands", lambda: {"train": "x"})
        assert cli.main(["train"]) == code
