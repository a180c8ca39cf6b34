"""Every fault of an option file is found, at once, and named by its dotted key, the nearest names and the line."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdsr_arch.errors import OptionErrors
from kdsr_arch.options import load_options

BASE: dict[str, Any] = {
    "name": "run",
    "model_type": "SRModel",
    "scale": 4,
    "num_gpu": 0,
    "datasets": {
        "train": {
            "type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq", "gt_size": 64,
            "batch_size_per_gpu": 2,
            "io_backend": {"type": "disk"},
        },
        "val": {"type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq", "io_backend": {"type": "disk"}},
    },
    "network_g": {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 4},
    "train": {
        "total_iter": 100,
        "optim_g": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]},
        "scheduler": {"type": "MultiStepLR", "milestones": [50], "gamma": 0.5},
        "pixel_opt": {"type": "L1Loss"},
    },
    "val": {"val_freq": 50, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4}}},
}  # fmt: skip
STEP = "train.scheduler"


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """BASE with dotted keys set; `...` removes a key."""
    options = copy.deepcopy(BASE)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        holder: Any = options
        for part in parents:
            holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return options


@pytest.fixture
def faults(tmp_path: Path) -> Callable[..., list[str]]:
    """``faults(changes)``: the faults of BASE with those changes; nothing may be created on the way."""

    def find(changes: dict[str, Any], is_train: bool = True) -> list[str]:
        path = tmp_path / "options" / "a.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(changed(changes), sort_keys=False))
        try:
            load_options(path, is_train=is_train)
        except OptionErrors as error:
            return error.faults
        finally:
            assert [p.name for p in tmp_path.rglob("*")] == ["options", "a.yml"]
        return []

    return find


def test_the_base_is_sound(faults: Callable[..., list[str]]) -> None:
    assert faults({}) == []
    assert faults({}, is_train=False) == []


CASES: list[tuple[dict[str, Any], str]] = [
    # missing keys
    ({"name": ...}, "name: is required, but missing"),
    ({"network_g": ...}, "network_g: is required, but missing"),
    ({"train": ...}, "train: is required to train, but missing"),
    ({"datasets.train": ...}, "datasets.train: is required to train, but missing"),
    ({"datasets.train.type": ...}, "datasets.train.type: is required, but missing"),
    ({"datasets.train.batch_size_per_gpu": ...}, "datasets.train.batch_size_per_gpu: is required, but missing"),
    ({"train.total_iter": ...}, "train.total_iter: is required, but missing"),
    ({"train.pixel_opt": ...}, "train.pixel_opt: is required, but missing: there is no loss at all"),
    ({"val.metrics.psnr": {"type": "calculate_psnr"}}, "val.metrics.psnr.crop_border: is required by calculate_psnr"),
    ({"network_g": {"type": "EDSR", "num_out_ch": 3}}, "network_g.num_in_ch: is required by EDSR, but missing"),
    # unknown keys, with the nearest
    ({"nmae": "x"}, "nmae: unknown key (did you mean 'name'?)"),
    ({"logger.print_frq": 1}, "logger.print_frq: unknown key (did you mean 'print_freq'?)"),
    ({"logger.wandb": {"projct": "x"}}, "logger.wandb.projct: unknown key (did you mean 'project'?)"),
    (
        {"datasets.train.gt_sise": 1},
        "datasets.train.gt_sise: unknown key of PairedImageDataset (did you mean 'gt_size'",
    ),
    ({"network_g.num_feats": 1}, "network_g.num_feats: unknown key of MSRResNet (did you mean 'num_feat'"),
    ({"train.optim_g.learning_rate": 1}, "train.optim_g.learning_rate: unknown key of Adam"),
    ({"train.optim_g.beta": 1}, "train.optim_g.beta: unknown key of Adam (did you mean 'betas'"),
    ({f"{STEP}.milestone": [1]}, "train.scheduler.milestone: unknown key of MultiStepLR (did you mean 'milestones'"),
    (
        {"train.pixel_opt.reductoin": "sum"},
        "train.pixel_opt.reductoin: unknown key of L1Loss (did you mean 'reduction'?)",
    ),
    (
        {"val.metrics.psnr.test_y_chanel": True},
        "test_y_chanel: unknown key of calculate_psnr (did you mean 'test_y_channel'",
    ),
    ({"train.total_itr": 5}, "train.total_itr: unknown key (did you mean 'total_iter'"),
    ({"path.pretrain_network_x": "a.pth"}, "path.pretrain_network_x: unknown key (did you mean 'pretrain_network_"),
    ({"val.tile_overlp": 1}, "val.tile_overlp: unknown key (did you mean 'tile_overlap'"),
    # keys that the model type never reads
    ({"train.tsa_iter": 5}, "train.tsa_iter: SRModel does not read this key"),
    ({"train.gan_opt": {"type": "GANLoss", "gan_type": "vanilla"}}, "train.gan_opt: SRModel does not read this key"),
    (
        {"network_d": {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 8}},
        "network_d: SRModel does not read",
    ),
    ({"resize_prob": [1]}, "resize_prob: unknown key"),
    # unknown names
    ({"model_type": "SRModl"}, "model_type: there is no model named 'SRModl' (did you mean 'SRModel'"),
    ({"network_g.type": "MSResNet"}, "network_g.type: there is no network named 'MSResNet' (did you mean 'MSRResNet'"),
    (
        {"datasets.val.type": "PairedImagDataset"},
        "no data set named 'PairedImagDataset' (did you mean 'PairedImageDataset'",
    ),
    ({"train.pixel_opt.type": "L1loss"}, "there is no loss named 'L1loss' (did you mean 'L1Loss'"),
    ({"train.optim_g.type": "AdamX"}, "there is no optimizer named 'AdamX' (did you mean"),
    ({f"{STEP}.type": "MultStepLR"}, "there is no scheduler named 'MultStepLR' (did you mean"),
    ({"val.metrics.psnr.type": "psnr"}, "val.metrics.psnr.type: there is no metric named 'psnr'"),
    # wrong types
    ({"scale": "four"}, "scale: must be a whole number, not the text 'four'"),
    ({"scale": 2.5}, "scale: must be a whole number, not 2.5"),
    ({"num_gpu": "all"}, "num_gpu: must be 'auto' or a whole number of GPUs (0: CPU), not the text 'all'"),
    ({"network_g": [1]}, "network_g: must be a mapping of keys to values, not a list"),
    ({"network_g.num_feat": "64"}, "network_g.num_feat: must be a number, not the text '64'"),
    ({"datasets.train.use_rot": "yes"}, "datasets.train.use_rot: must be true or false, not the text 'yes'"),
    ({"train.optim_g.lr": "1e-4x"}, "train.optim_g.lr: must be a number, not the text '1e-4x'"),
    ({"train.total_iter": True}, "train.total_iter: must be a whole number, not true"),
    ({"train.amp": "fp8"}, "train.amp: must be 'no', 'bf16' or 'fp16', not the text 'fp8'"),
    ({"name": 12}, "name: must be a text; put it in quotes: '12'"),
    ({"name": "../x"}, "name: names a folder below experiments/, so it cannot be '../x'"),
    # impossible values
    ({"train.optim_g.lr": -1}, "train.optim_g.lr: must be at least 0, got -1"),
    ({"train.optim_g.betas": [0.9, 1.5]}, "train.optim_g.betas.1: must be less than 1, got 1.5"),
    ({"train.optim_g.betas": [0.9]}, "train.optim_g.betas: must have 2 entries, has 1"),
    ({"train.total_iter": 0}, "train.total_iter: must be greater than 0, got 0"),
    ({"train.ema_decay": 1}, "train.ema_decay: must be less than 1, got 1"),
    ({"train.warmup_iter": -2}, "train.warmup_iter: must be at least -1, got -2"),
    ({"datasets.train.gt_size": 66}, "datasets.train.gt_size: must be a multiple of scale (4), got 66"),
    ({"datasets.train.dataroot_gt": "a.lmdb"}, "datasets.train.dataroot_gt: must not end in .lmdb (or set io_backend"),
    ({"datasets.train.io_backend.type": "lmdb"}, "datasets.train.dataroot_gt: must end in .lmdb"),
    (
        {"datasets.valid": BASE["datasets"]["val"]},
        "datasets.valid: must be named train, val, val_2, ..., test, test_1, ...",
    ),
    ({"datasets.test": BASE["datasets"]["val"]}, "datasets.test: is for testing; name it val"),
    ({f"{STEP}.milestones": [60, 50]}, "train.scheduler.milestones: must rise"),
    (
        {STEP: {"type": "CosineAnnealingRestartLR", "periods": [50, 50], "restart_weights": [1]}},
        "periods: has 2 entries",
    ),
    ({STEP: {"type": "CosineAnnealingRestartLR", "periods": [50, 50]}}, "periods: has 2 entries, but there are no"),
    (
        {STEP: {"type": "CosineAnnealingRestartLR", "periods": [50]}},
        "periods: end at iteration 50, before total_iter (100)",
    ),
    ({"val.tile": 16}, "val.tile: must be larger than tile_overlap (16), got 16"),
    ({"val.val_freq": 0}, "val.val_freq: must be greater than 0, got 0"),
    # distillation with a model that does not distill
    ({"network_t": {"type": "MSRResNet"}}, "network_t: SRModel does not distill"),
    (
        {"train.distill_opt": {"out": {"type": "L1Loss"}}},
        "train.distill_opt.out: compares with a teacher, but there is no",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "fault"), CASES, ids=[fault[:60] for _, fault in CASES])
def test_fault(faults: Callable[..., list[str]], changes: dict[str, Any], fault: str) -> None:
    lines = faults(changes)
    assert any(fault in line for line in lines), lines


TERMS: list[tuple[dict[str, Any], str]] = [
    ({"loss_wieght": 1}, "train.distill_opt.t.loss_wieght: unknown key of L1Loss (did you mean 'loss_weight'"),
    ({"loss_weight": -1}, "loss_weight: must be at least 0, got -1"),
    (
        {"loss_weight": "high"},
        "loss_weight: must be a number, {schedule: [[iteration, weight], ...]} or {balance: ratio}",
    ),
    ({"loss_weight": {"ramp": 1}}, "loss_weight: must be a number, {schedule"),
    ({"loss_weight": {"balance": 0}}, "loss_weight.balance: must be greater than 0, got 0"),
    (
        {"loss_weight": {"balance": 1, "mesurements": 2}},
        "loss_weight.mesurements: unknown key (did you mean 'measurements'?)",
    ),
    ({"loss_weight": {"schedule": [[10, 1], [5, 2]]}}, "loss_weight.schedule: must have rising iterations"),
    ({"loss_weight": {"schedule": [[10, 1, 2]]}}, "loss_weight.schedule: must be a list of [iteration, weight] pairs"),
    ({"adapter": "atuo"}, "adapter: must be 'auto' or 'none', not the text 'atuo' (did you mean 'auto'?)"),
    ({"adapter": {"type": "conv2x2"}}, "adapter.type: must be 'conv1x1', 'conv3x3', "),
    ({"adapter": {"type": "conv1x1", "baias": True}}, "adapter.baias: unknown key (did you mean 'bias'?)"),
    ({"adapter": 3}, "adapter: must be 'auto', 'none' or {type: conv1x1, ...}, not 3"),
    ({"at": "a", "student": "b"}, "at: stands for both taps"),
    ({"student": ["a", "b"], "teacher": "c"}, "teacher: must tap as many layers as student does (2)"),
    ({"at": ["a", "b"], "layer_weights": [1]}, "layer_weights: has 1 entries for 2 taps"),
    ({"student": 3}, "student: must be a text or a list of texts, not 3"),
]


@pytest.mark.parametrize("key", ["distil_opt", "pixl_opt", "optim_x"])
def test_an_unknown_key_is_one_fault_whatever_it_holds(faults: Callable[..., list[str]], key: str) -> None:
    lines = faults({f"train.{key}": {"t": {"type": "L1Los"}}})
    assert len(lines) == 1 and f"train.{key}: unknown key" in lines[0], lines


@pytest.mark.parametrize(("term", "fault"), TERMS, ids=[fault[:50] for _, fault in TERMS])
def test_fault_of_a_term(faults: Callable[..., list[str]], term: dict[str, Any], fault: str) -> None:
    lines = faults({"train.distill_opt": {"t": {"type": "L1Loss", **term}}})
    assert any(fault in line for line in lines), lines


STAGES: list[tuple[list[dict[str, Any]], str]] = [
    ([{"iters": 60}, {"iters": 30}], "train.stages: sum to 90 iterations, but total_iter is 100"),
    ([{"iters": 100, "terms": ["spatail"]}], "stages.0.terms: there is no term 'spatail' (did you mean 'spatial'?)"),
    ([{"terms": ["spatial"]}], "train.stages.0.iters: is required, but missing"),
    ([{"iters": 100, "frezee": []}], "train.stages.0.frezee: unknown key (did you mean 'freeze'?)"),
]


@pytest.mark.parametrize(("stages", "fault"), STAGES, ids=[fault[:40] for _, fault in STAGES])
def test_fault_of_the_stages(faults: Callable[..., list[str]], stages: list[dict[str, Any]], fault: str) -> None:
    lines = faults({"train.stages": stages, "train.distill_opt": {"spatial": {"type": "L1Loss"}}})
    assert any(fault in line for line in lines), lines


@pytest.mark.parametrize("beside", [{"amp": "fp16"}, {"accumulation": 2}])
def test_what_a_cuda_graph_excludes(faults: Callable[..., list[str]], beside: dict[str, Any]) -> None:
    lines = faults({f"train.{key}": value for key, value in {"cuda_graph": True, **beside}.items()})
    assert len(lines) == 1 and "train.cuda_graph: records steps of one batch" in lines[0], lines


def test_window_of_a_video_network(faults: Callable[..., list[str]]) -> None:
    reds = {
        "type": "REDSDataset", "dataroot_gt": "a", "dataroot_lq": "b", "meta_info_file": "m", "val_partition": "REDS4",
        "gt_size": 64, "batch_size_per_gpu": 1, "io_backend": {"type": "disk"},
    }  # fmt: skip
    edvr = {"type": "EDVR", "num_feat": 8}
    both = {
        "model_type": "EDVRModel",
        "datasets.train": {**reds, "num_frame": 4},
        "network_g": {**edvr, "num_frame": 4},
    }
    lines = faults(both)
    assert any("datasets.train.num_frame: must be odd and at least 1, got 4" in line for line in lines)
    assert any("network_g.num_frame: must be odd and at least 1, got 4" in line for line in lines)
    lines = faults({"model_type": "EDVRModel", "datasets.train": {**reds, "num_frame": 7}, "network_g": edvr})
    assert any("datasets.train.num_frame: is 7, but network_g (EDVR) sees 5 frames" in line for line in lines)


def test_a_network_that_gives_other_channels_than_it_is_given(faults: Callable[..., list[str]]) -> None:
    lines = faults({"network_g": {"type": "EDSR", "num_in_ch": 1, "num_out_ch": 3}})
    assert any("network_g.num_out_ch: is 3, but num_in_ch is 1" in line for line in lines), lines


def test_all_faults_at_once_in_the_files_order_with_lines(faults: Callable[..., list[str]]) -> None:
    lines = faults({"scale": "x", "network_g.type": "EDVRR", "train.optim_g.lr": -1, "val.val_freq": "x", "lgger": {}})
    keys = [line.split(":")[0] for line in lines]
    assert keys == ["scale", "network_g.type", "train.optim_g.lr", "val.val_freq", "lgger"]
    assert lines[0].endswith("(line 3)")


def test_message_counts_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text(yaml.safe_dump(changed({"scale": "x", "name": 3}), sort_keys=False))
    with pytest.raises(OptionErrors) as caught:
        load_options(path, is_train=True)
    assert str(caught.value).splitlines()[0] == f"{path}: 2 faults in the options"
    assert len(str(caught.value).splitlines()) == 3


def test_one_fault_is_told_once(faults: Callable[..., list[str]]) -> None:
    """By the schema or by the registry, not by both."""
    assert len(faults({"train.optim_g.lr": "x"})) == 1
    assert len(faults({"train.pixel_opt": {}})) == 1


def test_testing_needs_a_data_set(faults: Callable[..., list[str]]) -> None:
    assert faults({"datasets.val": ...}, is_train=False) == ["datasets.test: is required to test, but missing (line 5)"]


def test_parts_of_a_mixture(faults: Callable[..., list[str]]) -> None:
    part = {"type": "ClipDataset", "dataroot_gt": "a.lmdb", "clips": ["x"]}
    mixture = {"type": "MixDataset", "gt_size": 64, "batch_size_per_gpu": 1, "weights": [1, 2], "num_frame": 3}
    assert faults({"datasets.train": {**mixture, "datasets": [part, part]}}) == []
    wrong = {**part, "type": "ClipDatset", "num_frame": 4, "border": "none"}
    lines = faults({"datasets.train": {**mixture, "datasets": [{**part, "clps": []}, wrong]}})
    assert len(lines) == 4
    for fault in (
        "datasets.train.datasets.0.clps: unknown key of ClipDataset (did you mean 'clips'",
        "datasets.train.datasets.1.type: there is no data set named 'ClipDatset' (did you mean 'ClipDataset'",
        "datasets.train.datasets.1.num_frame: must be odd and at least 1, got 4",
        "datasets.train.datasets.1.border: must be 'symmetric' or 'replicate', not the text 'none'",
    ):
        assert any(fault in line for line in lines), lines


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"teacher_cache": "store.lmdb"}, "the teacher is run"),
        ({"dataset_enlarge_ratio": 10}, "`weights`"),
        ({"batch_size_per_gpu": 2}, "beside `datasets`"),
        ({"scale": 2}, "is 2, but `scale` of the whole file is 4"),
    ],
)
def test_what_a_part_of_a_mixture_would_drop_is_refused(
    faults: Callable[..., list[str]], given: dict, told: str
) -> None:
    part = {"type": "ClipDataset", "dataroot_gt": "a.lmdb"}
    mixture = {"type": "MixDataset", "gt_size": 64, "batch_size_per_gpu": 1, "datasets": [part, {**part, **given}]}
    (line,) = faults({"datasets.train": mixture})
    assert line.startswith(f"datasets.train.datasets.1.{next(iter(given))}: ") and told in line


@pytest.mark.parametrize("given", ["", [], [""]])
def test_an_empty_root_is_refused(faults: Callable[..., list[str]], given: Any) -> None:
    (line,) = faults({"datasets.train.dataroot_gt": given})
    assert line.startswith("datasets.train.dataroot_gt: is empty")


def test_a_data_set_of_another_scale_is_refused(faults: Callable[..., list[str]]) -> None:
    (line,) = faults({"datasets.val.scale": 2})
    assert line.startswith("datasets.val.scale: is 2, but `scale` of the whole file is 4")


def test_balance_needs_a_pixel_loss(faults: Callable[..., list[str]]) -> None:
    balanced = {"out": {"type": "L1Loss", "loss_weight": {"balance": 0.5, "schedule": [[0, 0], [50, 1]]}}}
    lines = faults({"train.distill_opt": balanced, "train.pixel_opt": ...})
    assert any(
        "out.loss_weight: is balanced against the pixel loss, but there is no train.pixel_opt" in f for f in lines
    )
    lines = faults({"train.pixel_opt.loss_weight": {"balance": 1}})
    assert any("train.pixel_opt.loss_weight: " in line for line in lines)
    lines = faults({"train.distill_opt": balanced, "train.pixel_opt.loss_weight": 0})
    assert any("out.loss_weight: is balanced against the pixel loss, but train.pixel_opt.lo" in f for f in lines)
    assert not any("nothing would be trained" in f for f in lines)


def test_losses_that_all_weigh_nothing_are_refused(faults: Callable[..., list[str]]) -> None:
    ours = {"model_type": "ImageDistillModel", "train.pixel_opt.loss_weight": 0}
    for weight, refused in ((0.0, True), ({"constant": 0}, True), ({"schedule": [[0, 0], [9, 1]]}, False), (1, False)):
        lines = faults({**ours, "train.distill_opt": {"out": {"type": "L1Loss", "loss_weight": weight}}})
        assert any("train.pixel_opt.loss_weight: is 0" in line for line in lines) is refused, (weight, lines)
    (line,) = faults(ours)
    assert "train.pixel_opt.loss_weight: is 0" in line
    assert not faults({**ours, "train.pixel_opt.loss_weight": {"schedule": [[0, 0], [9, 1]]}})


def test_patience_needs_a_validation_with_metrics(faults: Callable[..., list[str]]) -> None:
    assert not faults({"train.patience": 2})
    for key in ("val", "val.metrics", "datasets.val"):
        assert any(line.startswith("train.patience: ") for line in faults({"train.patience": 2, key: ...})), key
