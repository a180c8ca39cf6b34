"""What fuzzing found once, in its smallest form: each is now refused in a sentence that names what is wrong."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdsr_arch.cli import main
from kdsr_arch.data.augment import to_tensor
from kdsr_arch.data.pairs import CachedSource
from kdsr_arch.data.sources import LmdbSource
from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.errors import UserError
from kdsr_arch.options import load_options
from kdsr_arch.report.training_curves import Curve, loss_curve
from kdsr_arch.train.history import read_history
from tests.fuzz.guard import Guard
from tests.fuzz.material import encoded, texture, write_store
from tests.fuzz.payloads import hostile_objects, hostile_pickles
from tests.fuzz.targets import checkpoints, images, lmdb_values, load, training_states, videos
from tests.helpers.messages import missing, refuses


def refused(name: str, data: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the text of the refusal; fail for any other outcome."""
    target = load(name)
    monkeypatch.chdir(folder)
    assert Guard(folder).judge(target, data) == "refused"
    with pytest.raises(UserError) as caught:
        target.run(data, folder)
    return str(caught.value)


def options(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "name": "n", "model_type": "ImageDistillModel", "scale": 2, "network_g": {"type": "FSRCNN", "scale": 2},
        "datasets": {"train": {"type": "ImagePairDataset", "dataroot_gt": "d", "gt_size": 8, "batch_size_per_gpu": 1}},
        "train": {"total_iter": 5, "optim_g": {"type": "Adam"}, "pixel_opt": {"type": "L1Loss"}},
    }  # fmt: skip
    return json.dumps({**values, **changes}).encode()


TEXTS = {
    "aliases": (load("options_text").seeds()[2], ["100,000 values"]),
    "alias of itself": (b"a: &a [*a]", ["alias"]),
    "control character": (b"a: \x1f", ["YAML", "#x001f"]),
    "tag of another kind": (b"a: !!timestamp x", ["line 1", "YAML", "timestamp"]),
    "code": (b"!!python/object/apply:os.system [touch escape]", ["line 1", "YAML", "os.system"]),
    "no truth": (b"a: !!bool maybe", ["YAML", "'maybe'"]),
    "half a character": (b'name: "\\ud800"', ["YAML", r"'\ud800'"]),
    "giant number": (b"scale: 1" + b"0" * 400, ["too large"]),
    "depth": (b"[" * 3000, ["nested"]),
    "size": (b"a" * (513 << 10), ["512 KiB"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_option_text(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, names = TEXTS[case]
    assert not missing(refused("options_text", data, tmp_path, monkeypatch), *names)


@pytest.mark.parametrize("case", TEXTS)
def test_the_command_line_tells_it_without_a_traceback(case: str, tmp_path: Path, capfd) -> None:
    file = tmp_path / "options.yml"
    file.write_bytes(TEXTS[case][0])
    assert main(["check", "-opt", str(file), "--no-dry-run"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and str(file) in said and "Traceback" not in said


def test_a_message_does_not_steer_the_terminal(tmp_path: Path, capfd) -> None:
    file = tmp_path / "options.yml"
    file.write_bytes(options(**{"a\x1b[2Jb": 1, "\u202e": 2}))
    assert main(["check", "-opt", str(file), "--no-dry-run"]) == 2
    said = capfd.readouterr().err
    assert "a\\x1b[2Jb" in said and "\x1b" not in said and "\u202e" not in said


VALUES = {
    "the folder of all experiments": ({"name": "."}, ["name", "'.'"]),
    "a folder above": ({"name": "a/../../b"}, ["name", "'a/../../b'"]),
    "a name for no file system": ({"name": "a" * 300}, ["name"]),
    "a suffix that leads out": ({"val": {"suffix": "../../x"}}, ["val.suffix", "'../../x'"]),
    "a path that is too long": ({"path": {"pretrain_network_g": "a" * 5000}}, ["File name too long"]),
    "nobody's home": ({"path": {"pretrain_network_g": "~nobody-here/x"}}, ["~nobody-here/x"]),
}


@pytest.mark.parametrize("case", VALUES)
def test_option_values(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, names = VALUES[case]
    assert not missing(refused("options_values", options(**changes), tmp_path, monkeypatch), *names)


def test_a_data_sets_name_becomes_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = {"type": "ImagePairDataset", "dataroot_gt": "d", "batch_size_per_gpu": 1, "name": "../../../x"}
    said = refused("options_values", options(datasets={"train": dataset}), tmp_path, monkeypatch)
    assert not missing(said, "datasets.train.name", "'../../../x'")


def test_a_data_set_named_null_is_called_by_its_key(tmp_path: Path) -> None:
    file = tmp_path / "options.yml"
    dataset = {"type": "ImagePairDataset", "dataroot_gt": "d", "batch_size_per_gpu": 1, "name": None}
    file.write_bytes(options(datasets={"train": dataset}))
    assert load_options(file, is_train=True).datasets["train"].name == "train"


@pytest.mark.parametrize("line, names", [
    (b"1" * 5000 + b".png (24,32,3) 1", ["clip frames (h,w,c)"]),
    (b"a.png (99999999999,1,3) 1", ["clip frames (h,w,c)", "a.png"]),
    (b"000 " + b"9" * 5000, [5004, 400]),
    (b"../x 3 (1,2,3)", ["'../x'"]),
])  # fmt: skip
def test_lists(line: bytes, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused("frame_lists", line, tmp_path, monkeypatch)
    assert not missing(said, "meta_info.txt", "line 1", *names)


def _tiles(kind: int, edge: int, size: tuple[int, int], tile: bytes) -> bytes:
    return lmdb_values._record(kind, edge, *size, [tile])


@pytest.mark.parametrize("value, names", [
    (_tiles(0, 65535, (65535, 65535), b""), ["65535x65535", "178,956,970"]),
    (_tiles(1, 64, (24, 32), encoded(".webp", texture(600, 600))), ["damaged"]),
    (b"KDSRtile", ["damaged"]),
    (b"KDSRtile" + struct.pack("<BBHII", 1, 0, 1, 9000, 9000) + bytes(4), ["damaged"]),
])  # fmt: skip
def test_stored_values(value: bytes, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not missing(refused("lmdb_values", value, tmp_path, monkeypatch), "store", "'k'", *names)


@pytest.mark.parametrize("number", range(len(hostile_pickles())))
@pytest.mark.parametrize("wrapped", [False, True])
def test_pickled_code_is_refused_and_does_not_run(number: int, wrapped: bool, tmp_path: Path, monkeypatch) -> None:
    code = hostile_pickles()[number]
    if wrapped:
        parts = checkpoints._parts(checkpoints._saved({"a": torch.zeros(2)}))
        name = next(name for name in parts if name.endswith("data.pkl"))
        code = checkpoints._zipped({**parts, name: code})
    refused("checkpoints", code, tmp_path, monkeypatch)


def test_pickled_code_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = checkpoints._saved({"params": hostile_objects()[0]})
    said = refused("checkpoints", data, tmp_path, monkeypatch)
    assert not missing(said, "net_g_1.pth", "code")


def test_a_packed_archive_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in checkpoints._parts(checkpoints._saved({"a": torch.zeros(4)})).items():
            archive.writestr(name, content)
        archive.writestr("archive/data/9", bytes(64 << 20))
    assert not missing(refused("checkpoints", buffer.getvalue(), tmp_path, monkeypatch), "net_g_1.pth", "checkpoint")


@pytest.mark.parametrize("path, value, name", [
    (("version",), "1", "version"),
    (("iter",), -3, "iter"),
    (("fingerprint",), {"name": 1}, "fingerprint"),
    (("random",), {}, "random"),
    (("best", "val"), 3, "training state"),
    (("model", "schedule"), [], "training state"),
    (("model", "optimizer", "state"), None, "training state"),
])  # fmt: skip
def test_training_states(path: tuple[str, ...], value: Any, name: str, tmp_path: Path, monkeypatch) -> None:
    state = torch.load(io.BytesIO(training_states.seeds()[0]), weights_only=True)
    holder = state
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert not missing(refused("training_states", training_states._bytes(state), tmp_path, monkeypatch), name)


def _long_chunk() -> bytes:
    """A PNG whose second chunk claims four gigabytes."""
    plain = encoded(".png", texture())
    return plain[:33] + b"\xff\xff\xff\xff" + plain[37:]


def _tiff_without_size() -> bytes:
    return encoded(".tiff", texture()).replace(struct.pack("<HHI", 256, 3, 1), struct.pack("<HHI", 999, 3, 1))


@pytest.mark.parametrize("data", [images._png(60000, 60000), images._png(13400, 13400), _long_chunk(), b"",
                                  b"P6 60000 60000 255\n", _tiff_without_size()])  # fmt: skip
def test_images(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "image" in refused("images", data, tmp_path, monkeypatch)


def test_a_text_bomb_in_a_png_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert zlib.crc32(images._text_bomb()) and Guard(tmp_path).judge(load("images"), images._text_bomb())


def test_a_video_of_an_unknown_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="needs the extra: pip install av")
    data = videos._video("mp4", "mpeg4")
    assert data is not None
    said = refused("videos", data.replace(b"mp4v", b"xxxx").replace(b"esds", b"free"), tmp_path, monkeypatch)
    assert not missing(said, "v.mp4", "H.264")


@pytest.mark.parametrize("line", [b"[1]", b'{"iter": "x"}', b"[" * 5000, b"1" * 5000, b"\xff\xfe", b'{"images": 3}'])
def test_records(line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a history that is none is passed over; as any other of the files it is refused."""
    monkeypatch.chdir(tmp_path)
    assert Guard(tmp_path).judge(load("records"), line + b"\n") == "accepted"
    assert list(read_history(tmp_path)) == []
    with pytest.raises(UserError):
        TeacherStore(tmp_path)


def test_a_history_with_giant_numbers_can_be_drawn(tmp_path: Path) -> None:
    giant = "1" + "0" * 400
    lines = [f'{{"kind": "train", "iter": 1, "l_pix": {giant}}}', '{"kind": "train", "iter": 2, "l_pix": 0.5}',
             f'{{"kind": "train", "iter": {giant}, "l_pix": 0.5}}']  # fmt: skip
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    assert loss_curve(list(read_history(tmp_path))) == Curve([2], [0.5])


BENCH: dict[str, Any] = {"name": "b", "base": "base.yml", "budgets": [5], "rows": {"a": {}}}


@pytest.mark.parametrize("changes, names", [
    ({"name": "../../b"}, ["name", "'../../b'"]),
    ({"before": {"..": {"base": "base.yml", "iterations": 5}}}, ["before", "'..'"]),
    ({"seeds": [1e308]}, ["seeds.0", "1e+308"]),
    ({"rows": ["a"]}, ["rows", "list"]),
    ({"budgets": []}, ["rows", "budgets", "tested"]),
    ({"rows": {"a": {"name.x": 1}}}, ["'name'", "'x'"]),
    ({"rows": {"a": {"train.total_iter": 0}}}, ["train"]),
    ({"rows": {"a": {"extra_iter": "x"}}}, ["extra_iter", "'x'"]),
])  # fmt: skip
def test_bench_files(
    changes: dict[str, Any], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not missing(refused("benches", json.dumps({**BENCH, **changes}).encode(), tmp_path, monkeypatch), *names)


IMAGES = {"type": "ImagePairDataset", "gt_size": 8, "degradation": "BI"}
CLIPS = {"type": "ClipDataset", "dataroot_gt": "clips.lmdb", "gt_size": 8, "num_frame": 3, "cache": True}


@pytest.mark.parametrize("dataset", [{**CLIPS, "clips": ["000", "000"]}, {**CLIPS, "cache_gb": 1e308}])
def test_data_sets_that_are_sound(dataset: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Guard(tmp_path).judge(load("datasets"), json.dumps(dataset).encode()) == "accepted"


@pytest.mark.parametrize("cached", [True, False])
def test_a_frame_that_is_larger_than_its_list_says(cached: bool, tmp_path: Path) -> None:
    value = {f"000/{number}".encode(): encoded(".png", texture(40, 40)) for number in range(3)}
    root = write_store(tmp_path / "s.lmdb", value, "".join(f"{key.decode()}.png (24,24,3) 1\n" for key in value))
    source: Any = LmdbSource(root)
    if cached:
        source = CachedSource(source, source.keys(), 1 << 20)
    with refuses(root, "'000/1'", "40x40", "meta_info.txt", "24x24"):
        source.get("000/1")


@pytest.mark.parametrize("flip", [(True, False, False), (False, True, True), (True, True, False)])
def test_a_flipped_crop_of_one_pixel(flip: tuple[bool, bool, bool]) -> None:
    frame = np.array([[[0, 51, 255]]], np.uint8)
    assert to_tensor([frame], flip).flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_training_images_without_ground_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.dumps({**IMAGES, "dataroot_lq": "images"}).encode()
    assert not missing(refused("datasets", data, tmp_path, monkeypatch), "datasets.train", "dataroot_gt")


def test_a_network_that_divides_by_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused("networks", b'{"type": "FSRCNN", "scale": 0.0}', tmp_path, monkeypatch)
    assert not missing(said, "network_g", "FSRCNN")
