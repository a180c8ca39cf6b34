"""Lists of frames and clips: meta_info.txt of a store, BasicSR's list files; their keys become names of files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from kdsr_arch.data.clip_dataset import listed_clips, numbering_fault
from kdsr_arch.data.keys import natural
from kdsr_arch.data.sources import LmdbSource
from kdsr_arch.errors import UserError
from tests.fuzz.material import encoded, texture, write_store
from tests.fuzz.mutate import splice
from tests.fuzz.target import Target

_PIECES = (
    b"../", b"/", b"//", b"\\", b"..", b"C:", b"\x00", b"~", b".png", b" (24,32,3) 1\n", b" (", b",", b")", b"-1",
    b"\n",
    b"\r", b"\x0b", b"\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xff", b"9" * 30, b"9" * 5000, b"\xd9\xa3",
    b"\xc2\xb2",
    b"1_0", b" 1", b"\t", b".", b"...", b"\x1b[2J", b"%s", b"a" * 300, b"000/00000000.png (24,32,3) 1\n", b"CON",
    b"\n\n",
)  # fmt: skip


def seeds() -> list[bytes]:
    """Return lists of stores and of clips."""
    return [
        b"000/00000000.png (24,32,3) 1\n000/00000001.png (24,32,3) 1\n",
        b"a.png (24,32,3) 1\n", b"000 100 (720,1280,3)\n001 100 (720,1280,3)\n", b"00001/0001\n00001/0002 7\n",
        b"../a.png (24,32,3) 1\n", b"/etc/passwd.png (24,32,3) 1\n", b"000/1.png (99999999,99999999,3) 1\n",
        b"000/1.png (0,0,3) 1\n", b"000/1.png (-24,32,3) 1\n", b"", b"\n" * 50,
        b"".join(b"000/%d.png (24,32,3) 1\n" % n for n in (1, 2, 3, 5)),
    ]  # fmt: skip


def mutate(data: bytes, rng: Random) -> bytes:
    """Insert a piece of a list, or of a bad path, anywhere."""
    return splice(data, _PIECES, rng)


@cache
def _store(folder: Path) -> Path:
    return write_store(folder / "s.lmdb", {b"a": encoded(".png", texture())}, "a.png (24,32,3) 1\n")


def run(data: bytes, folder: Path) -> None:
    """Read it as the list of a store, ask for every frame, name the files of an export; then as a list of clips."""
    root = _store(folder)
    (root / "meta_info.txt").write_bytes(data)
    try:
        _walk(LmdbSource(root), folder / "out")
    except UserError:
        listed_clips(root / "meta_info.txt")


def _walk(source: LmdbSource, out: Path) -> None:
    for keys in source.clips().values():
        numbering_fault(keys)
    for key in source.keys()[:5]:
        natural(key)
        source.size(key)
        place = out / f"{key}.png"
        assert place.resolve().is_relative_to(out.resolve()), f"{key!r} becomes {place}"
        try:
            source.get(key)
        except UserError:
            continue


TARGET = Target("frame_lists", "meta_info.txt of LMDB stores, lists of clips, keys as names of files", seeds, run,
mutate,
                share=30)  # fmt: skip
