"""Commands where something that Linux and a terminal give is missing: on Windows, and behind a closed pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdsr_arch.train.run_files import folder_lock
from tests.helpers import ROOT
from tests.helpers.images import write_textures
from tests.helpers.processes import environment

WINDOWS = '''
"""Takes away what Python does not have on Windows; its locks are made of those of this system."""
import errno, fcntl, os, signal, sys, types
import multiprocessing, multiprocessing.context, multiprocessing.util, shutil, socket, subprocess, tempfile

def locking(file, mode, count):
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, count, os.lseek(file, 0, os.SEEK_CUR))
    except OSError:
        raise PermissionError(errno.EACCES, "Permission denied") from None

def open_file(path, flags, mode=0o777, *, dir_fd=None):
    if dir_fd is None and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return really_open(path, flags, mode, dir_fd=dir_fd)

really_open, os.open = os.open, open_file
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
sys.modules.update(dict.fromkeys(["fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"]))
shutil._use_fd_functions = False
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGQUIT", "pthread_sigmask", "alarm"):
    delattr(signal, name)
for name in (
    "pread", "pwrite", "statvfs", "getuid", "geteuid", "chown", "killpg", "setsid", "sched_getaffinity", "fchmod",
    "posix_fadvise", "mkfifo", "getloadavg", "O_DIRECTORY", "O_NOFOLLOW",
):
    delattr(os, name)
contexts = multiprocessing.context._concrete_contexts
multiprocessing.context._concrete_contexts = {"spawn": contexts["spawn"]}
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.set_start_method("spawn")
'''
RUN = """
import importlib, pkgutil, sys
from pathlib import Path
import kdsr_arch
from kdsr_arch.cli import main
from kdsr_arch.errors import UserError
from kdsr_arch.train.run_files import folder_lock

for module in pkgutil.walk_packages(kdsr_arch.__path__, "kdsr_arch."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name not in ("fcntl", "resource", "pwd", "grp", "termios") and "kdsr" not in error.name, error
for words in sys.argv[1:]:
    assert main(words.split()) == 0, words
try:
    with folder_lock(Path("taken")):
        pass
except UserError as error:
    print(error)
"""
OPTIONS = """
name: tiny
model_type: ImageDistillModel
scale: 2
num_gpu: 0
datasets:
  train: {type: ImagePairDataset, dataroot_gt: hr, gt_size: 32, batch_size_per_gpu: 2, num_worker_per_gpu: WORKERS}
  val: {name: set, type: ImagePairDataset, dataroot_gt: hr}
network_g: {type: FSRCNN, scale: 2, d: 8, s: 4, m: 1}
train: {total_iter: 4, optim_g: {type: Adam, lr: 1e-3}, pixel_opt: {type: L1Loss}}
val: {val_freq: 4, save_img: true, speed_size: ~, metrics: {psnr: {type: calculate_psnr, crop_border: 2}}}
"""
WEIGHTS = "experiments/tiny/models/net_g_latest.pth"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an option file, four images, and clips of five frames."""
    for place in ("hr", "clips/a", "clips/b"):
        write_textures(tmp_path / place, 5, 48, 48, digits=8)
    for workers in range(2):
        name = ("tiny", "tiny1")[workers]
        text = OPTIONS.replace("WORKERS", str(workers)).replace("name: tiny", f"name: {name}")
        (tmp_path / f"{name}.yml").write_text(text)
    return tmp_path


def start(words: list[str], folder: Path, *paths: Path, **more: object) -> subprocess.Popen[str]:
    """Start Python with these words, in `folder`, with `paths` before the project's own on its search path."""
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | more
    return subprocess.Popen([sys.executable, *words], cwd=folder, env=environment(PYTHONPATH=path), text=True, **pipes)


@pytest.mark.slow
def test_commands_on_windows(folder: Path) -> None:
    (folder / "windows").mkdir()
    (folder / "windows" / "sitecustomize.py").write_text(WINDOWS)

    commands = [
        "check -opt tiny.yml", "train -opt tiny.yml", "train -opt tiny1.yml",
        "train -opt tiny.yml --auto_resume --force_yml train:total_iter=6",
        f"test -opt tiny.yml --force_yml path:pretrain_network_g={WEIGHTS}",
        f"upscale hr -o up --weights {WEIGHTS}", f"export {WEIGHTS} -o tiny.safetensors",
        "lmdb create clips clips.lmdb", "lmdb verify clips.lmdb", "compare results/tiny --gt hr", "convert list",
    ]  # fmt: skip
    with folder_lock(folder / "taken"):
        process = start(["-c", RUN, *commands], folder, folder / "windows")
        text = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "Traceback" not in text, text
    assert f"process {os.getpid()}" in text.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "both", "flags"),
    [
        ("check --schema", False, []),
        ("check --schema", True, ["-u"]),
        ("--help", False, []),
        ("convert list", True, []),
        ("train -opt tiny.yml", False, ["-u"]),
        ("train -opt tiny.yml", True, []),
        ("train -opt no.yml", True, ["-u"]),
    ],
)
def test_a_command_outlives_the_reader_of_its_output(folder: Path, words: str, both: bool, flags: list[str]) -> None:
    """As behind `| head`: the work is done, the exit code is that of the work, nobody complains."""
    reader, writer = os.pipe()
    os.close(reader)
    errors_to = writer if both else subprocess.PIPE
    process = start([*flags, "-m", "kdsr_arch.cli", *words.split()], folder, stdout=writer, stderr=errors_to)
    os.close(writer)
    errors = process.communicate(timeout=120)[1] or ""
    assert process.returncode == (2 if "no.yml" in words else 0), errors
    assert not any(word in errors for word in ("Traceback", "Broken pipe", "Exception ignored")), errors
    assert (folder / WEIGHTS).is_file() == ("tiny" in words)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["check --schema", "check -opt tiny.yml"])
def test_a_full_disk_behind_the_output_is_told(folder: Path, words: str) -> None:
    with open("/dev/full", "w") as full:
        process = start(["-m", "kdsr_arch.cli", *words.split()], folder, stdout=full, stderr=subprocess.PIPE)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and "no space left" in errors and "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["stdout", "stderr", "stdout stderr"])
def test_a_full_disk_behind_the_output_stops_no_training(folder: Path, streams: str) -> None:
    with open("/dev/full", "w") as full:
        pipes = {name: full if name in streams.split() else subprocess.PIPE for name in ("stdout", "stderr")}
        process = start(["-m", "kdsr_arch.cli", "train", "-opt", "tiny.yml"], folder, **pipes)
        errors = process.communicate(timeout=120)[1] or ""
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert (folder / WEIGHTS).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("file", ["tiny1.yml", "no.yml"])
def test_a_command_runs_without_standard_streams(folder: Path, file: str, closed: tuple[int, ...]) -> None:
    """As behind `2>&-`; in a training with a loader process as well."""
    words = ["-m", "kdsr_arch.cli", "train", "-opt", file, "--force_yml", "name=tiny"]
    pipes = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = start(words, folder, preexec_fn=lambda: [os.close(number) for number in closed], **pipes)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == (2 if file == "no.yml" else 0) and "Traceback" not in errors, errors
    assert ("error: " in errors) == (file == "no.yml" and 2 not in closed), errors
    assert (folder / WEIGHTS).is_file() == (file != "no.yml")
