"""Files of torch.save: zip archives and the older form, pickles with code in them, zip bombs."""

from __future__ import annotations

import io
import pickle
import zipfile
from functools import cache
from pathlib import Path
from random import Random

import torch

from kdsr_arch.infer.open import read_weights
from kdsr_arch.io import load_tensors
from tests.fuzz.mutate import mutate_bytes
from tests.fuzz.payloads import hostile_pickles
from tests.fuzz.target import MIB, Target

_PIECES = (
    b"\x81",
    b"R",
    b"(",
    b"t",
    b"}",
    b"]",
    b"u",
    b"s",
    b"e",
    b"Q",
    b"\x85",
    b"\x86",
    b"h\x00",
    b"q\xff",
    b"K\xff",
    b"M\xff\xff",
    b"J\xff\xff\xff\x7f",
    b"\x8a\x09" + b"\xff" * 9,
    b"G" + b"\x7f\xf8" + bytes(6),
    b"N",
    b"\x88",
    b"ctorch\nTensor\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
    b"cos\nsystem\n",
    b"cbuiltins\nexec\n",
    b"X\x04\x00\x00\x00aaaa",
    b"X\xff\xff\xff\x7f",
    b".",
    b"\x80\x04",
    b"b",
)


def _saved(content: object, **keywords: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **keywords)
    return buffer.getvalue()


def _parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(parts: dict[str, bytes], packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@cache
def seeds() -> list[bytes]:
    """Return weights as BasicSR and others save them, then everything hostile inside a sound archive."""
    weights = {"body.0.weight": torch.arange(6.0).reshape(2, 3), "body.0.bias": torch.zeros(2)}
    contents = (
        weights,
        {"params": weights, "params_ema": weights},
        {"state_dict": weights, "epoch": 3},
        {"params": {f"module.{k}": v for k, v in weights.items()}},
        [1, 2.0, None, "a"],
        torch.zeros(2),
        3,
    )
    sound = [_saved(content) for content in contents]
    old = [_saved(content, _use_new_zipfile_serialization=False) for content in contents[:3]]
    parts = _parts(sound[0])
    name = next(name for name in parts if name.endswith("data.pkl"))
    bad = [_zipped({**parts, name: code}) for code in hostile_pickles()]
    bombs = [
        _zipped({**parts, "archive/data/0": bytes(64 * MIB)}, packed=True),
        _zipped({**parts, name: b"\x80\x02" + bytes(64 * MIB)}, packed=True),
        _zipped({**parts, "../../escape": b"x", "/etc/escape": b"x"}),
        _zipped({}),
    ]
    return [
        *sound,
        *old,
        *bad,
        *bombs,
        *hostile_pickles(),
        pickle.dumps(weights.keys() and {"a": 1}),
        b"",
        b"PK\x03\x04",
    ]


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the pickle inside the archive, or a tensor's bytes or name; write the archive with right checksums."""
    try:
        parts = _parts(data)
    except Exception:
        return mutate_bytes(data, rng)
    if not parts or sum(map(len, parts.values())) > MIB:
        return mutate_bytes(data, rng)
    name = rng.choice([*parts, *(name for name in parts if name.endswith(".pkl"))])
    what = rng.randrange(6)
    if what == 0:
        del parts[name]
    elif what == 1:
        parts[rng.choice(("archive/data/0", "archive/data.pkl", "../x", "archive/constants.pkl"))] = parts[name]
    elif what <= 3:
        place = rng.randrange(len(parts[name]) + 1)
        parts[name] = parts[name][:place] + rng.choice(_PIECES) + parts[name][place + rng.choice((0, 1, 2)) :]
    else:
        parts[name] = mutate_bytes(parts[name], rng)
    return _zipped(parts, packed=rng.random() < 0.2)


def run(data: bytes, folder: Path) -> None:
    """Read it as a checkpoint, then as the weights of a network."""
    file = folder / "net_g_1.pth"
    file.write_bytes(data)
    load_tensors(file)
    weights = read_weights(file, ("params", None, "body")[len(data) % 3])
    assert all(isinstance(name, str) for name in weights)


TARGET = Target(
    "checkpoints",
    "files of torch.save: archives, the older form, pickled code, zip bombs",
    seeds,
    run,
    mutate,
    structured=0.7,
    max_len=100_000,
    share=12,
)
