"""Networks by name, and weights that are missing, damaged or of another network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdsr_arch.errors import UserError
from kdsr_arch.infer.open import load_pretrained, load_weights, open_network, read_weights
from kdsr_arch.options.schema import PathOptions
from kdsr_arch.registry import build
from tests.helpers.messages import missing, refuses

NET = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}


@pytest.fixture
def net() -> torch.nn.Module:
    return build("network", NET, "network_g")


def store(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    ("opt", "names"),
    [
        ({"type": "MSRResNett"}, ["network_g.type", "'MSRResNett'", "'MSRResNet'"]),
        ({"type": "MSRResNet", "feat": 3}, ["network_g.feat", "MSRResNet", "'num_feat'"]),
    ],
)
def test_faults_in_the_options(opt: dict, names: list[str]) -> None:
    with refuses(*names):
        build("network", opt, "network_g")


@pytest.mark.parametrize("key", [None, "params", "params_ema"])
@pytest.mark.parametrize("form", ["bare", "params", "params_ema", "module"])
def test_every_form_of_file_is_read(key: str | None, form: str, net: torch.nn.Module, tmp_path: Path) -> None:
    weights = build("network", NET, "network_g").state_dict()
    stored_weights = {
        "bare": weights,
        "params": {"params": weights},
        "params_ema": {"params_ema": weights},
        "module": {"params": {f"module.{k}": v for k, v in weights.items()}},
    }[form]
    load_weights(net, store(tmp_path / "x.pth", stored_weights), key)
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights[name])


def test_both_weights_in_one_file(tmp_path: Path) -> None:
    path = store(tmp_path / "x.pth", {"params": {"w": torch.zeros(1)}, "params_ema": {"w": torch.ones(1)}})
    assert read_weights(path, "params")["w"] == 0
    assert read_weights(path, "params_ema")["w"] == read_weights(path)["w"] == 1


@pytest.mark.parametrize(("given", "told"), [({}, True), ({"param_key_t": "params"}, False)])
def test_averaged_weights_that_the_default_leaves_are_told(
    given: dict, told: bool, net, tmp_path: Path, caplog
) -> None:
    """Validation and upscaling take them, so a test's figure would be another and nobody knew why."""
    path = store(tmp_path / "w.pth", {"params": net.state_dict(), "params_ema": net.state_dict()})
    load_pretrained(net, PathOptions(pretrain_network_t=path, **given), "t")
    assert ("param_key_t: params_ema" in caplog.text) is told
    caplog.clear()
    load_pretrained(net, PathOptions(pretrain_network_t=store(tmp_path / "p.pth", {"params": net.state_dict()})), "t")
    assert not caplog.text


def test_unknown_key_names_those_there_are(tmp_path: Path) -> None:
    path = store(tmp_path / "x.pth", {"params": {"w": torch.zeros(1)}})
    with refuses(path, "'generator'", "params"):
        read_weights(path, "generator")


WRAPPED = {
    "a wrapper of the authors' own": lambda weights: {"netG": {"net": weights}},
    "beside an optimizer": lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {"state": {}}},
    "wrapped twice": lambda weights: {f"module.module.{name}": value for name, value in weights.items()},
    "an average with its count": lambda weights: {
        **{f"module.{name}": value for name, value in weights.items()}, "n_averaged": torch.tensor(7)},
    "compiled": lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
    "with a number": lambda weights: {**weights, "step": torch.tensor(9), "epoch": 3},
    "Lightning's, beside a discriminator": lambda weights: {"state_dict": {
        **{f"net_g.{name}": value for name, value in weights.items()}, "net_d.conv_first.weight": torch.ones(9, 3)}},
}  # fmt: skip


@pytest.mark.parametrize("form", WRAPPED.values(), ids=WRAPPED)
def test_what_training_code_puts_around_weights_is_taken_off(form, net: torch.nn.Module, tmp_path: Path) -> None:
    weights = build("network", NET, "network_g").state_dict()
    load_weights(net, store(tmp_path / "x.pth", form(weights)))
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_advice_names_an_option_that_there_is(net: torch.nn.Module, tmp_path: Path) -> None:
    path = store(tmp_path / "x.pth", {"conv_first.weight": torch.ones(2, 2)})
    with refuses("path.strict_load_g", "conv_first.weight"):
        load_pretrained(net, PathOptions(pretrain_network_g=path), "g")
    with refuses("conv_first.weight", without=["strict_load"]):
        open_network(path, "{type: MSRResNet, num_feat: 4, num_block: 1, upscale: 2}")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1], {"params": {"a": 3}}, torch.ones(1)])
def test_files_without_weights(content: object, tmp_path: Path) -> None:
    with refuses(tmp_path / "x.pth"):
        read_weights(store(tmp_path / "x.pth", content))


def test_other_networks_are_told_by_their_keys(net: torch.nn.Module, tmp_path: Path) -> None:
    wider = build("network", {**NET, "num_feat": 6}, "network_g").state_dict()
    path = store(tmp_path / "x.pth", {"params": wider})
    with refuses(path, "MSRResNet", "conv_first.weight (6, 3, 3, 3)", "(4, 3, 3, 3)"):
        load_weights(net, path)
    deep = build("network", {**NET, "num_block": 2}, "network_g")
    with refuses("y.pth", "body.1.conv1.weight", "strict_load"):
        load_weights(net, store(tmp_path / "y.pth", {"params": deep.state_dict()}))
    with refuses("z.pth", "misses body.1.conv1.weight", "strict_load"):
        load_weights(
            build("network", {**NET, "num_block": 2}, "network_g"),
            store(tmp_path / "z.pth", {"params": net.state_dict()}),
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantized"),
        (lambda w: w.to_sparse(), "sparse_coo"),
        (lambda w: w.to("meta"), "meta"),
        (lambda w: w.to(torch.complex64), "complex64"),
        (lambda w: w * torch.nan, "NaN"),
        (lambda w: w / 0, "NaN or infinite"),
    ],
    ids=["quantized", "sparse", "meta", "complex", "nan", "infinite"],
)
def test_weights_that_no_network_computes_with_are_named(change, told: str, net: torch.nn.Module, tmp_path) -> None:
    weights = {**net.state_dict(), "conv_hr.weight": change(net.state_dict()["conv_hr.weight"])}
    path = store(tmp_path / "x.pth", {"params": weights})
    with refuses("path.pretrain_network_g", path, "'conv_hr.weight'", told):
        load_pretrained(net, PathOptions(pretrain_network_g=path), "g")


def test_a_mask_of_infinities_is_no_damage(net: torch.nn.Module, tmp_path: Path) -> None:
    """Attention masks hold them; a NaN where the network has a number is damage as ever."""
    net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    path = store(tmp_path / "x.pth", {"params": net.state_dict()})
    load_weights(net, path)
    path = store(tmp_path / "y.pth", {"params": {**net.state_dict(), "mask": torch.tensor([torch.nan, 0.0])}})
    with refuses(path, "'mask'", "NaN"):
        load_weights(net, path)


def test_refused_weights_leave_the_network_alone(net: torch.nn.Module, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    path = store(tmp_path / "x.pth", {"params": build("network", {**NET, "num_block": 2}, "network_g").state_dict()})
    with pytest.raises(UserError):
        load_weights(net, path)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_fits_is_taken_when_not_strict(net: torch.nn.Module, tmp_path: Path) -> None:
    deeper = build("network", {**NET, "num_block": 2}, "network_g").state_dict()
    load_weights(net, store(tmp_path / "x.pth", {"params": deeper}), strict=False)
    assert torch.equal(net.state_dict()["conv_last.weight"], deeper["conv_last.weight"])
    with refuses("y.pth", "MSRResNet", "conv_first.weight", "foreign"):
        load_weights(net, store(tmp_path / "y.pth", {"params": {"foreign": torch.ones(1)}}), strict=False)


def test_what_was_taken_is_a_warning_with_counts_and_names(net, tmp_path: Path, caplog) -> None:
    weights = {k: v for k, v in net.state_dict().items() if k != "conv_last.bias"} | {"foreign": torch.ones(1)}
    path = PathOptions(pretrain_network_t=store(tmp_path / "x.pth", {"params": weights}), strict_load_t=False)
    assert load_pretrained(net, path, "t")
    (record,) = caplog.records
    count = len(net.state_dict())
    assert record.levelname == "WARNING"
    assert not missing(record.getMessage(), f"{count - 1} of the {count}", "x.pth", "conv_last.bias", "foreign")


@pytest.mark.parametrize("kept", [["conv_first.bias"], ["conv_first.weight", "conv_last.weight"]])
def test_a_teacher_of_which_less_than_half_is_filled_is_refused(kept, net, tmp_path: Path) -> None:
    file = store(tmp_path / "x.pth", {"params": {name: net.state_dict()[name] for name in kept}})
    with refuses("path.pretrain_network_t", "x.pth", "MSRResNet", "%"):
        load_pretrained(net, PathOptions(pretrain_network_t=file, strict_load_t=False), "t")
    assert load_pretrained(net, PathOptions(pretrain_network_g=file, strict_load_g=False), "g")


@pytest.mark.parametrize("block", ["plain", "ecb", "conv3xc"])
def test_a_network_of_another_scale_gives_all_but_its_tail(
    block: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tail stays as it is, whole: of a Conv3XC's branches some have shapes that do not depend on the scale."""
    small, large = (
        build("network", {"type": "PlainSR", "scale": scale, "num_block": 1, "block": block}, "network_g")
        for scale in (2, 4)
    )
    before = {k: v.clone() for k, v in large.state_dict().items()}
    path = PathOptions(pretrain_network_g=str(store(tmp_path / "x2.pth", {"params": small.state_dict()})))
    with refuses("x2.pth", "tail.", "(12,", "(48,", "path.strict_load_g"):
        load_pretrained(large, path, "g")
    with caplog.at_level("INFO", "kdsr"):
        load_pretrained(large, path.model_copy(update={"strict_load_g": False}), "g")
    given = small.state_dict()
    for name, value in large.state_dict().items():
        assert torch.equal(value, (before if name.startswith("tail") else given)[name]), name
    tail = sum(name.startswith("tail.") for name in before)
    said = caplog.messages[-1]
    assert f"{len(before) - tail} of the {len(before)} entries" in said and "x2.pth" in said and "not tail." in said


def test_the_option_is_named(net: torch.nn.Module, tmp_path: Path) -> None:
    with refuses("path.pretrain_network_t", tmp_path / "none.pth"):
        load_pretrained(net, PathOptions(pretrain_network_t=str(tmp_path / "none.pth")), "t")
    assert not load_pretrained(net, PathOptions(pretrain_network_t=None), "t")
