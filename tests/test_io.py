"""Files are whole or absent, and read as data."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from kdsr_arch.errors import UserError
from kdsr_arch.io import load_tensors, remove_leftovers, save_tensors, write_whole
from tests.fuzz.payloads import Calls
from tests.helpers.messages import refuses


def test_written_file_holds_the_content_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    save_tensors({"a": torch.ones(2)}, tmp_path / "x.pth")
    assert torch.equal(load_tensors(tmp_path / "x.pth")["a"], torch.ones(2))
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("bug")])
def test_failed_write_leaves_the_old_file(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(handle: object) -> None:
        handle.write(b"half")  # type: ignore[attr-defined]
        raise error

    full = isinstance(error, OSError)
    with refuses(path, "space", "logger.keep_last") if full else refuses("bug", kind=ValueError):
        write_whole(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_full_disk_while_saving_tensors_is_one_sentence(tmp_path: Path) -> None:
    save_tensors(torch.ones(1), tmp_path / "x.pth")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # writing past it fails as on a full disk
    try:
        with refuses(tmp_path / "x.pth", "File too large"):
            save_tensors(torch.ones(100_000), tmp_path / "x.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.equal(load_tensors(tmp_path / "x.pth"), torch.ones(1))
    assert os.listdir(tmp_path) == ["x.pth"]


def test_a_full_disk_that_the_zip_writer_meets_is_told_with_what_to_do(tmp_path: Path) -> None:
    def write(file: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  (as torch's zip writer does)

    with refuses("a.pth", "keep_last"):
        write_whole(tmp_path / "a.pth", write)


def test_missing_folder_is_told(tmp_path: Path) -> None:
    with refuses(tmp_path / "none" / "x.pth"):
        save_tensors(torch.ones(1), tmp_path / "none" / "x.pth")


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".5.state.123.tmp").write_bytes(b"half")
    (tmp_path / "5.state").write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["5.state"]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"params": Calls(os.mkdir, str(tmp_path / "boom"))}, tmp_path / "x.pth")
    with refuses(tmp_path / "x.pth", "code"):
        load_tensors(tmp_path / "x.pth")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(1000)])
def test_no_checkpoint_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    try:
        assert load_tensors(path) == {}  # the one that is a whole, old-style pickle
        assert content.startswith(b"\x80")
    except UserError as error:
        assert "truncated, damaged or no checkpoint" in str(error)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_checkpoint_is_one_sentence(part: float, tmp_path: Path) -> None:
    save_tensors({"a": torch.rand(1000)}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(whole[: int(part * len(whole))])
    with refuses(tmp_path / "x.pth", "damaged"):
        load_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix, runtime", [(".tflite", "LiteRT"), (".param", "ncnn"), (".html", "a browser")])
def test_what_was_exported_is_not_called_damaged(suffix, runtime, tmp_path):
    path = tmp_path / f"student{suffix}"
    path.write_bytes(b"TFL3")
    with refuses(path.name, runtime, without=["damaged"]):
        load_tensors(path)


def test_entries_of_an_npz_that_are_no_numbers_are_left_out(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.ones(2, np.float32), note=np.array("by hand"))
    assert list(load_tensors(tmp_path / "a.npz")) == ["weight"]
