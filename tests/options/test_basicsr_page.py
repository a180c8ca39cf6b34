"""What docs/basicsr.md says of keys is what the reader of option files does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdsr_arch.options import load_options
from kdsr_arch.options.load import _NOT_READ, _OLDER_NAMES
from kdsr_arch.options.schema import Options, PathOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.options.schema_train import TrainOptions
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "basicsr.md").read_text(encoding="utf-8")


def test_the_example_is_a_sound_option_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "mine.yml").write_text(block)
    monkeypatch.chdir(tmp_path)
    opt = load_options("mine.yml", is_train=True)
    assert opt.network_t is not None and list(opt.train.distill_opt) == ["output", "features"]


def test_the_keys_that_are_passed_over_are_listed() -> None:
    paragraph = PAGE.split("These keys of BasicSR's files")[1].split("Older names")[0]
    listed = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", paragraph)}
    assert listed == set().union(*_NOT_READ.values())


def test_older_names_are_listed() -> None:
    paragraph = PAGE.split("Older names are taken")[1].split("##")[0]
    for names in _OLDER_NAMES.values():
        for old, new in names.items():
            assert f"{old}`" in paragraph and (new in paragraph or new.startswith("pretrain_network_"))


def test_the_new_keys_are_there() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*).* \| (top|`[\w.]+`) \|", PAGE, re.M)
    sections = {
        "top": Options, "`path`": PathOptions, "`train`": TrainOptions, "`datasets.train`": DatasetOptions,
    }  # fmt: skip
    assert len(rows) == 6
    for keys, place in rows:
        assert set(re.findall(r"\w+", keys)) <= set(sections[place].model_fields)
