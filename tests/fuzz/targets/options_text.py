"""Option files as text, through all that `kdsr check --no-dry-run` does."""

from __future__ import annotations

from pathlib import Path
from random import Random

from kdsr_arch.options import load_options, load_yaml, parse_value
from tests.fuzz.mutate import splice
from tests.fuzz.target import Target

_PIECES = (
    b"&a ", b"*a", b"<<: *a\n", b"<<: [*a, *a]\n", b"? ", b": ", b"- ", b"\n", b"\n  ", b"\t", b"---\n", b"...\n",
    b"|\n", b">-\n", b"!!int ", b"!!float ", b"!!binary ", b"!!set ", b"!!omap ", b"!!timestamp ",
    b"!!python/name:os.system ",
    b"!!python/object/apply:os.system [touch escape]", b"!!python/object/new:os.system [true]", b"%YAML 9.9\n",
    b"%TAG ! tag:x,2000:\n", b"{", b"}", b"[", b"]", b"'", b'"', b"\\x00", b'"\\ud800"', b"\x00", b"\x1b[2J",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b".inf", b"-.nan", b"0x", b"0o9", b"1e999", b"9" * 400,
    b"0x" + b"f" * 400,
    b"~: ~\n", b"null: 1\n", b"[1]: 2\n", b"1: 2\n", b"2001-01-01", b"# \n", b"scale: 4\n", b"name: ../../x\n",
    b"train: {}\n", b"datasets: {train: {}}\n", b"network_g: {type: FSRCNN}\n", b"  type: \n",
)  # fmt: skip

_SMALL = """\
name: small
model_type: ImageDistillModel
scale: 2
datasets:
  train: {type: ImagePairDataset, dataroot_gt: d, gt_size: 16, batch_size_per_gpu: 1}
network_g: {type: FSRCNN, scale: 2}
train:
  total_iter: 10
  optim_g: {type: Adam, lr: 1e-3}
  pixel_opt: &p {type: L1Loss}
"""


def _bomb(levels: int, width: int) -> bytes:
    """Nest aliases: width ** levels values from a few lines."""
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


def _merge_bomb(levels: int) -> bytes:
    lines = ["m0: &m0 {k: 1, j: 2}"]
    lines += [f"m{n}: &m{n}\n  <<: [*m{n - 1}, *m{n - 1}, *m{n - 1}]\n  k{n}: 1" for n in range(1, levels)]
    return "\n".join(lines).encode()


def seeds() -> list[bytes]:
    """Return small option files and the classical attacks on YAML readers."""
    terms = "  distill_opt:\n    t: {type: L1Loss, loss_weight: {balance: 0.1}}\nnetwork_t: {type: EDSR}\n"
    return [
        _SMALL.encode(), (_SMALL + terms).encode(), _bomb(9, 9), _bomb(3, 3), _merge_bomb(12), b"a: &a [*a]",
        b"[" * 900, b"a: {" * 300, b"- " * 900, b"a: &a\n  b: *a\n", _SMALL.replace("10", "1" + "0" * 400).encode(),
        _SMALL.replace("small", '"a\\0b"').encode(), "\n".join(f"k{n}: {n}" for n in range(200)).encode(),
        b"k: '" + b"a" * 3000 + b"'", b"",
    ]  # fmt: skip


def mutate(data: bytes, rng: Random) -> bytes:
    """Insert a piece of YAML anywhere, or swap two lines."""
    lines = data.split(b"\n")
    if len(lines) > 2 and rng.random() < 0.2:
        one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
        return b"\n".join(lines)
    return splice(data, _PIECES, rng)


def run(data: bytes, folder: Path) -> None:
    """Load the file for training or for testing, a part of it through --force_yml."""
    file = folder / "options.yml"
    file.write_bytes(data)
    if len(data) % 8 == 0:
        parse_value(data.decode(errors="surrogateescape"))
    testing = len(data) % 4 == 0 and "train" not in (load_yaml(file).get("datasets") or {})
    load_options(file, is_train=not testing, root=folder)


TARGET = Target("options_text", "option files, as text", seeds, run, mutate, share=5)
