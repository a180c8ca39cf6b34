"""Folders of images: one bad file, other weights, two runs at once, and too little memory."""

import errno
import subprocess
import sys

import numpy as np
import pytest

from kdsr_arch import errors, locks
from kdsr_arch.cli import main
from kdsr_arch.locks import claimed
from kdsr_arch.upscale import images as images_module
from kdsr_arch.upscale.images import upscale_folder
from kdsr_arch.upscale.picture import Picture, read_picture
from kdsr_arch.upscale.picture_output import write_picture
from tests.helpers.messages import missing, refuses

RNG = np.random.default_rng(0)
NETWORK = ["--network", "{type: Bicubic, scale: 2}"]
HOLDER = "import sys; from pathlib import Path; from kdsr_arch.locks import claimed\n" \
         "with claimed(Path(sys.argv[1]), 'is busy'): print('held', flush=True); sys.stdin.read()"  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2"):
        write_picture(tmp_path / f"in/{name}.png", Picture(RNG.integers(0, 256, (8, 9, 3), dtype=np.uint8)))
    return tmp_path / "in"


def made(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_a_bad_file_does_not_keep_the_others_from_it(folder, tmp_path, capsys):
    (folder / "a/2.png").write_bytes(b"nothing")
    write_picture(folder / "wide.png", Picture(np.zeros((1, 8192, 3), np.uint8)))
    (folder / "wide.png").rename(folder / "wide.webp")
    for _ in range(2):
        assert main(["upscale", str(folder), "-o", str(tmp_path / "out"), *NETWORK]) == 1
        said = capsys.readouterr().err
        assert not missing(said, folder / "a/2.png", "wide.webp", "16384x2", 2) and "Traceback" not in said
        assert made(tmp_path / "out") == ["a/1.png", "a/3.png", "b/1.png", "b/2.png"]


def test_links_to_folders_are_followed_but_for_one_to_a_folder_above(folder, tmp_path, capsys):
    (folder / "a").rename(tmp_path / "elsewhere")
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    assert main(["upscale", str(folder), "-o", str(tmp_path / "out"), *NETWORK]) == 0
    assert made(tmp_path / "out") == ["a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png"]
    (folder / "b" / "loop").symlink_to(folder)
    assert main(["upscale", str(folder), "-o", str(tmp_path / "other"), *NETWORK]) == 2
    assert not missing(capsys.readouterr().err, folder / "b" / "loop") and not (tmp_path / "other").exists()


def test_images_of_other_kinds_are_counted(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    for name in ("a/x.gif", "y.heic", "@eaDir/z.gif", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(images_module, "picture_suffixes", lambda: frozenset({".png"}))
    assert main(["upscale", str(folder), "-o", str(tmp_path / "out"), *NETWORK]) == 0
    assert not missing(caplog.text, folder, "1 .gif, 1 .heic")


def test_a_bad_frame_ends_its_clip_alone(folder, tmp_path, restorer):
    write_picture(folder / "a/2.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    count, failures = upscale_folder(restorer("window"), folder, tmp_path / "out", sequence=True)
    assert len(failures) == 1 and not missing(failures[0], folder / "a/2.png", "8x8x3", "8x9x3")
    assert {"b/1.png", "b/2.png"} <= set(made(tmp_path / "out")) and count == len(made(tmp_path / "out"))


def test_a_disk_that_takes_nothing_ends_the_run(folder, tmp_path, restorer, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images_module, "write_picture", full)
    with pytest.raises(OSError):
        upscale_folder(restorer("bicubic"), folder, tmp_path / "out")


def test_other_weights_are_not_added_to(folder, tmp_path, restorer, monkeypatch):
    def run(network, **more):
        return upscale_folder(restorer("bicubic"), folder, tmp_path / "out", network=network, **more)

    assert run("one") == (5, []) and run("one") == (0, [])
    (tmp_path / "out/a/1.png").unlink()
    for network, more in (("two", {}), ("one", {"sequence": True})):
        with refuses(tmp_path / "out", "--overwrite"):
            run(network, **more)
    assert run("one") == (1, [])
    (folder / "b/1.png").rename(tmp_path / "kept.png")
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(images_module, "finish", interrupted)
        run("two", overwrite=True)
    for network in ("one", "two"):  # of which there may be some by now
        with refuses(tmp_path / "out", "--overwrite"):
            run(network)
    assert run("two", overwrite=True) == (4, []) and run("two") == (0, [])


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_images_too_large_for_memory_are_told(folder, tmp_path, restorer, monkeypatch, error):
    finish = images_module.finish

    def limited(restorer, picture, sr):
        if picture.name.endswith("b/1.png"):
            raise error
        return finish(restorer, picture, sr)

    monkeypatch.setattr(images_module, "finish", limited)
    count, failures = upscale_folder(restorer("bicubic"), folder, tmp_path / "out")
    assert count == 4 and len(failures) == 1 and not missing(failures[0], folder / "b/1.png", "memory")
    with refuses(folder / "b/1.png", "memory"):
        images_module.upscale_picture(restorer("bicubic"), read_picture(folder / "b/1.png"))


def test_faults_of_the_program_are_not_taken_for_memory(folder, tmp_path, restorer, monkeypatch):
    def failing(*_):
        raise RuntimeError("a fault")

    monkeypatch.setattr(images_module, "finish", failing)
    with pytest.raises(RuntimeError, match="a fault"):
        upscale_folder(restorer("bicubic"), folder, tmp_path / "out")


@pytest.mark.parametrize("kind", ["image", "folder"])
def test_two_runs_do_not_write_to_one_output(folder, tmp_path, capsys, kind):
    source = folder if kind == "folder" else folder / "a/1.png"
    target = tmp_path / ("out" if kind == "folder" else "out.png")
    locked = target / "upscale" if kind == "folder" else target
    locked.parent.mkdir(exist_ok=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(locked)], stdin=-1, stdout=-1, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert main(["upscale", str(source), "-o", str(target), *NETWORK]) == 2
        assert not missing(capsys.readouterr().err, f"process {holder.pid}")
        assert made(tmp_path / "out") == [] and not (tmp_path / "out.png").exists()
    finally:
        holder.communicate("")
    assert main(["upscale", str(source), "-o", str(target), *NETWORK]) == 0
    assert not [*tmp_path.rglob(".*.lock")]


def test_a_lock_file_removed_by_its_holder_locks_nobody_out(tmp_path):
    with claimed(tmp_path / "a", "is busy"):
        (tmp_path / ".a.lock").unlink()
        with claimed(tmp_path / "a", "is busy"):
            assert (tmp_path / ".a.lock").exists()
    assert not (tmp_path / ".a.lock").exists()


def test_file_systems_without_locks_are_written_to(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_file", without)
    with claimed(tmp_path / "a", "is busy"):
        pass
    assert not [*tmp_path.iterdir()]
