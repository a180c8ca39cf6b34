"""Explanations and generated files come from the one schema."""

import pytest

from kdsr_arch.options import explain, json_schema
from kdsr_arch.options.explain import entries
from scripts.options_reference import generated
from tests.helpers import ROOT
from tests.helpers.messages import refuses


@pytest.mark.parametrize("name", generated())
def test_generated_file_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generated()[name], "run python scripts/options_reference.py"


def test_every_option_is_documented() -> None:
    listed = list(entries())
    assert len(listed) > 120
    assert [entry.key for entry in listed if len(entry.text) < 10] == []
    assert len({entry.key for entry in listed}) == len(listed)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train.optim_g.lr", "Learning rate"),
        ("gt_size", "datasets.NAME.gt_size  (whole number; optional)"),
        ("datasets.val_2.gt_size", "HR crop"),
        ("train.distill_opt.spatial.loss_weight", "balance: r"),
        ("train.stages.0.iters", "Length of the stage"),
        ("train.total_iter", "(whole number; required)"),
        ("logger", "logger.print_freq: Iterations between log lines."),
        ("EDVR", "num_frame: 5"),
        ("calculate_psnr", "crop_border"),
        ("FAKDLoss", "  formula: mean |A_S - A_T|"),
        ("FAKDLoss", "  source: He et al., ICIP 2020\n"),
        ("RLSP", "  scale: 4\n      enlargement.\n"),
        ("FlowMemoryLoss", "  kernel_size: 3\n      odd.\n"),
        ("VideoTestDataset", "reads: "),
        ("datasets.train", "  datasets.NAME.gt_size: Side"),
        ("val.metrics.psnr", "  val.metrics.NAME.better: Which"),
        ("AdamW", "an optimizer. Implements AdamW"),
        ("CosineAnnealingRestartLR", "  restart_weights: (1,)"),
    ],
)
def test_explain(key: str, words: str) -> None:
    assert words in explain(key)


def test_a_bare_name_finds_every_place() -> None:
    text = explain("scale")
    assert text.startswith("scale  (") and "\ndatasets.NAME.scale  (" in text


@pytest.mark.parametrize(
    ("key", "near"), [("total_itr", "total_iter"), ("train.optim_g.lrr", "train.optim_g.lr"), ("EDVRR", "EDVR")]
)
def test_explain_names_near_ones(key: str, near: str) -> None:
    with refuses(key, near=near):
        explain(key)


def test_a_keyword_of_a_class_is_said_to_be_one() -> None:
    with refuses("network_t.num_feat", "network_t.type", "--explain TYPE"):
        explain("network_t.num_feat")


def test_json_schema_knows_types_and_closed_sections() -> None:
    schema = json_schema()
    logger = schema["$defs"]["LoggerOptions"]
    assert logger["additionalProperties"] is False
    assert logger["properties"]["print_freq"]["description"] == "Iterations between log lines."
    assert set(schema["required"]) == {"name", "model_type", "datasets", "network_g"}
