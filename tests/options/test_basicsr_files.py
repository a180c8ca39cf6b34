"""Option files with the keys of BasicSR's own (and Real-ESRGAN's) load unchanged."""

from pathlib import Path
from typing import Any

import pytest

from kdsr_arch.options import load_options
from tests.helpers.messages import refuses

IMAGES = """
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: datasets/hr
    dataroot_lq: datasets/lr
    filename_tmpl: '{}'
    io_backend: {type: disk}
    gt_size: 128
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 16
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
  val:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: datasets/Set5/GTmod12
    dataroot_lq: datasets/Set5/LRbicx4
    io_backend: {type: disk}
"""
REDS = """
    name: REDS
    dataroot_gt: datasets/REDS/train_sharp
    dataroot_lq: datasets/REDS/train_sharp_bicubic/X4
    meta_info_file: basicsr/data/meta_info/meta_info_REDS_GT.txt
    val_partition: REDS4
    io_backend: {type: disk}
    gt_size: 256
    interval_list: [1]
    random_reverse: false
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 200
    prefetch_mode: ~
"""
ADAM = "{type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}"
STEPS = "{type: MultiStepLR, milestones: [50000, 100000], gamma: 0.5}"
GAN = f"""
  optim_d: {ADAM}
  perceptual_opt:
    type: PerceptualLoss
    layer_weights: {{'conv5_4': 1}}
    vgg_type: vgg19
    use_input_norm: true
    range_norm: false
    perceptual_weight: !!float 1.0
    style_weight: 0
    criterion: l1
  gan_opt: {{type: GANLoss, gan_type: vanilla, real_label_val: 1.0, fake_label_val: 0.0, loss_weight: !!float 5e-3}}
  net_d_iters: 1
  net_d_init_iters: 0
"""
TAIL = """
val:
  val_freq: !!float 5e3
  save_img: false
  metrics:
    psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false, better: higher}
    ssim: {type: calculate_ssim, crop_border: 4, test_y_channel: false}
logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb: {project: ~, resume_id: ~}
dist_params: {backend: nccl, port: 29500}
"""


def train_file(model, data, networks, extra_train="", extra_top="", scale=4, loss="L1Loss", schedule=STEPS):
    return f"""
name: {model}_run
model_type: {model}
scale: {scale}
num_gpu: 1  # set num_gpu: 0 for cpu mode
manual_seed: 0
{extra_top}
datasets:
  train:{data}
{networks}
path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~
train:
  ema_decay: 0.999
  optim_g: {ADAM}
  scheduler: {schedule}
  total_iter: 300000
  warmup_iter: -1  # no warm up
  pixel_opt: {{type: {loss}, loss_weight: 1.0, reduction: mean}}
{extra_train}
{TAIL}
"""


EDSR = (
    "network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 16, upscale: 4, res_scale: 1, "
    "img_range: 255., rgb_mean: [0.4488, 0.4371, 0.4040]}"
)
RCAN = (
    "network_g: {type: RCAN, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_group: 10, num_block: 20, "
    "squeeze_factor: 16, upscale: 4, res_scale: 1, img_range: 255., rgb_mean: [0.4488, 0.4371, 0.4040]}"
)
EDVR = (
    "network_g: {type: EDVR, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_frame: 5, deformable_groups: 8, "
    "num_extract_block: 5, num_reconstruct_block: 10, center_frame_idx: ~, "
    "hr_in: false, with_predeblur: false, with_tsa: true}"
)
RRDB = """
network_g: {type: RRDBNet, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 23, num_grow_ch: 32}
network_d: {type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 64}
"""
SWIN = (
    "network_g: {type: SwinIR, upscale: 4, in_chans: 3, img_size: 48, window_size: 8, img_range: 1., "
    "depths: [6, 6], embed_dim: 180, num_heads: [6, 6], mlp_ratio: 2, "
    "upsampler: 'pixelshuffle', resi_connection: '1conv'}"
)
BASICVSR = (
    "network_g: {type: BasicVSR, num_feat: 64, num_block: 30, spynet_path: experiments/pretrained_models/spynet.pth}"
)
PERIODS = (
    "{type: CosineAnnealingRestartLR, periods: [100000, 200000], restart_weights: [1, 0.5], eta_min: !!float 1e-7}"
)
RECURRENT_VAL = """
  val:
    name: REDS4
    type: VideoRecurrentTestDataset
    dataroot_gt: datasets/REDS4/GT
    dataroot_lq: datasets/REDS4/sharp_bicubic
    cache_data: true
    io_backend: {type: disk}
    num_frame: -1  # not needed
"""
EDVR_VAL = """
  val:
    name: REDS4
    type: VideoTestDataset
    dataroot_gt: datasets/REDS/train_sharp
    dataroot_lq: datasets/REDS/train_sharp_bicubic
    meta_info_file: basicsr/data/meta_info/meta_info_REDS4_test_GT.txt
    io_backend: {type: disk}
    cache_data: false
    num_frame: 5
    padding: reflection_circle
"""
REAL_TOP = """
l1_gt_usm: True
percep_gt_usm: True
gan_gt_usm: False
resize_prob: [0.2, 0.7, 0.1]  # up, down, keep
resize_range: [0.15, 1.5]
gaussian_noise_prob: 0.5
noise_range: [1, 30]
poisson_scale_range: [0.05, 3]
gray_noise_prob: 0.4
jpeg_range: [30, 95]
second_blur_prob: 0.8
gt_size: 256
queue_size: 180
"""
REAL_DATA = """
    name: DF2K+OST
    type: RealESRGANDataset
    dataroot_gt: datasets/DF2K
    meta_info: datasets/DF2K/meta_info/meta_info_sub.txt
    io_backend: {type: disk}
    blur_kernel_size: 21
    kernel_list: ['iso', 'aniso']
    kernel_prob: [0.45, 0.55]
    sinc_prob: 0.1
    blur_sigma: [0.2, 3]
    betag_range: [0.5, 4]
    betap_range: [1, 2]
    final_sinc_prob: 0.8
    gt_size: 256
    use_hflip: True
    use_rot: False
    use_shuffle: true
    num_worker_per_gpu: 5
    batch_size_per_gpu: 12
"""

TRAINING = {
    "EDSR": train_file("SRModel", IMAGES, EDSR),
    "RCAN": train_file("SRModel", IMAGES, RCAN),
    "SwinIR": train_file("SwinIRModel", IMAGES, SWIN),
    "ESRGAN": train_file("ESRGANModel", IMAGES, RRDB, GAN),
    "SRGAN": train_file("SRGANModel", IMAGES, RRDB, GAN),
    "EDVR": train_file(
        "EDVRModel",
        "\n    type: REDSDataset\n    dataroot_flow: ~\n    num_frame: 5" + REDS + EDVR_VAL,
        EDVR,
        "  tsa_iter: 50000\n  dcn_lr_mul: 1",
        "find_unused_parameters: true",
        loss="CharbonnierLoss",
        schedule=PERIODS,
    ),
    "BasicVSR": train_file(
        "VideoRecurrentModel",
        "\n    type: REDSRecurrentDataset\n    test_mode: False\n    num_frame: 30" + REDS + RECURRENT_VAL,
        BASICVSR,
        "  fix_flow: 5000\n  flow_lr_mul: 0.125",
        loss="CharbonnierLoss",
        schedule=PERIODS,
    ),
    "RealESRGAN": train_file(
        "RealESRGANModel", REAL_DATA, RRDB.replace("VGGStyleDiscriminator", "UNetDiscriminatorSN"), GAN, REAL_TOP
    ),
}
TESTING = {
    "EDVR_Vimeo90K": """
name: EDVR_L_Vimeo
model_type: EDVRModel
scale: 4
num_gpu: 1
manual_seed: 0
datasets:
  test:
    name: Vimeo90K-Test
    type: VideoTestVimeo90KDataset
    dataroot_gt: datasets/vimeo90k/sequences
    dataroot_lq: datasets/vimeo90k/matlabLRx4
    meta_info_file: basicsr/data/meta_info/meta_info_Vimeo90K_test_GT.txt
    io_backend: {type: disk}
    cache_data: false
    num_frame: 7
    padding: reflection_circle
network_g: {type: EDVR, num_feat: 128, num_frame: 7, num_reconstruct_block: 40}
path: {pretrain_network_g: experiments/pretrained_models/EDVR_L.pth, strict_load_g: true}
val:
  save_img: true
  suffix: ~
  metrics: {psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: false}}
""",
    "ESRGAN_without_gt": """
name: ESRGAN_official
model_type: ESRGANModel
scale: 4
num_gpu: 1
manual_seed: 0
save_img: true
datasets:
  test_1: {name: Set5, type: SingleImageDataset, dataroot_lq: datasets/Set5/LRbicx4, io_backend: {type: disk}}
  test_2: {name: Set14, type: SingleImageDataset, dataroot_lq: datasets/Set14/LRbicx4, io_backend: {type: disk}}
network_g: {type: RRDBNet, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 23, num_grow_ch: 32}
path: {pretrain_network_g: a.pth, strict_load_g: true}
val: {save_img: true, suffix: ~}
""",
    "TOFlow": """
name: TOF_official
model_type: VideoBaseModel
scale: 4
num_gpu: 0
manual_seed: 0
datasets:
  test:
    {name: Vid4, type: VideoTestDataset, dataroot_gt: a, dataroot_lq: b, io_backend: {type: disk}, cache_data: false,
     num_frame: 7, padding: reflection_circle, use_duf_downsampling: true}
network_g: {type: TOFlow, adapt_official_weights: true}
path: {pretrain_network_g: a.pth, strict_load_g: true}
val: {save_img: true, suffix: ~, metrics: {psnr_y: {type: calculate_psnr, crop_border: 0, test_y_channel: true}}}
""",
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_file_loads(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yml"
    path.write_text(TRAINING[name])
    opt = load_options(path, is_train=True, root=tmp_path)
    assert opt.train.optim_g.lr == 1e-4
    assert opt.logger.save_checkpoint_freq == 5000 and isinstance(opt.logger.save_checkpoint_freq, int)
    assert opt.datasets["train"].scale == 4
    assert opt.folder == tmp_path / "experiments" / opt.name
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", TESTING)
def test_testing_file_loads(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yml"
    path.write_text(TESTING[name])
    opt = load_options(path, is_train=False, root=tmp_path)
    assert opt.folder == tmp_path / "results" / opt.name
    assert opt.phase("test") == opt.datasets
    assert opt.val and opt.val.suffix is None


def test_network_keywords_are_only_those_written(tmp_path: Path) -> None:
    """They go to a constructor as they are."""
    path = tmp_path / "a.yml"
    path.write_text(TRAINING["BasicVSR"])
    opt = load_options(path, is_train=True, root=tmp_path)
    assert set(opt.network_g.keywords()) == {"num_feat", "num_block", "spynet_path"}
    train = opt.plain()["train"]
    assert train["pixel_opt"] == {"type": "CharbonnierLoss", "loss_weight": 1.0, "reduction": "mean"}
    assert train["scheduler"] == {
        "type": "CosineAnnealingRestartLR",
        "periods": [100000, 200000],
        "restart_weights": [1, 0.5],
        "eta_min": 1e-7,
    }
    assert train["fix_flow"] == 5000 and "tsa_iter" not in train


def test_a_missing_meta_file_stays_missing(tmp_path: Path) -> None:
    """BasicSR's data sets ask whether the key is there, not whether it is None."""
    path = tmp_path / "a.yml"
    path.write_text(TRAINING["BasicVSR"])
    assert "meta_info_file" not in load_options(path, is_train=True, root=tmp_path).datasets["val"].plain()


def test_older_names_are_renamed_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.yml"
    path.write_text(TRAINING["EDSR"].replace("use_hflip", "use_flip").replace("pretrain_network_g", "pretrain_model_g"))
    training = load_options(path, is_train=True, root=tmp_path).datasets["train"]
    assert training.use_hflip is True and not hasattr(training, "use_flip")
    assert "datasets.train.use_flip is an older name of use_hflip" in caplog.text


def test_another_scale_of_a_basicsr_network_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.yml"
    path.write_text(TRAINING["RCAN"].replace("scale: 4\nnum_gpu", "scale: 2\nnum_gpu"))
    load_options(path, is_train=True, root=tmp_path)
    assert "network_g.upscale: is 4, but scale is 2" in caplog.text


def test_keys_that_only_basicsr_needs_are_left_out_with_one_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.yml"
    path.write_text(TRAINING["EDVR"])
    opt = load_options(path, is_train=True, root=tmp_path)
    left_out = {"find_unused_parameters", "datasets.train.prefetch_mode"}
    notes = [record.getMessage() for record in caplog.records if "not needed here" in record.getMessage()]
    assert len(notes) == 1
    assert left_out <= {word.strip(",") for word in notes[0].split()}
    assert not left_out & {*opt.plain(), *(f"datasets.train.{key}" for key in opt.datasets["train"].plain())}


STYLEGAN = train_file(
    "StyleGAN2Model",
    "\n    name: FFHQ\n    type: FFHQDataset\n    dataroot_gt: datasets/ffhq.lmdb\n    io_backend: {type: lmdb}\n"
    "    use_hflip: true\n    mean: [0.5, 0.5, 0.5]\n    std: [0.5, 0.5, 0.5]\n    batch_size_per_gpu: 3",
    "network_g: {type: StyleGAN2Generator, out_size: 256}\nnetwork_d: {type: StyleGAN2Discriminator, out_size: 256}",
    f"  optim_d: {ADAM}\n  gan_opt: {{type: GANLoss, gan_type: wgan_softplus, loss_weight: 1}}\n"
    "  net_d_iters: 1\n  net_d_init_iters: 0",
    scale=1,
).replace("  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}\n", "")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"net_d_iters: 1": "net_d_iters: 2"}, "train.net_d_iters"),
        ({"net_d_init_iters: 0": "net_d_init_iters: 100"}, "train.net_d_init_iters"),
    ],
)
def test_a_key_that_the_model_does_not_read_may_say_what_happens_anyway(
    tmp_path: Path, changes: dict[str, str], key: str
) -> None:
    assert load_text(STYLEGAN, tmp_path).train.net_d_iters == 1
    with refuses(key, "StyleGAN2Model"):
        load_text(STYLEGAN, tmp_path, changes)


@pytest.mark.parametrize(
    ("name", "changes", "names"),
    [  # what BasicSR makes nothing of: keywords and losses that it has no more, a discriminator that it leaves aside
        ("EDVR", {"num_frame: 5, deform": "num_frame: 5, ema_decay: 0.999, deform"}, ["network_g.ema_decay"]),
        ("ESRGAN", {"type: PerceptualLoss": "type: GANFeatLoss"}, ["train.perceptual_opt", "GANFeatLoss"]),
        ("EDVR", {"\npath:": "\nnetwork_d: {type: VGGStyleDiscriminator, num_in_ch: 3}\npath:"}, ["network_d"]),
    ],
)
def test_what_basicsr_itself_cannot_use_is_refused(
    tmp_path: Path, name: str, changes: dict[str, str], names: list[str]
) -> None:
    with refuses(*names):
        load_text(TRAINING[name], tmp_path, changes)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"type: EDSR": "type: HAT"}, "network_g.type"),
        ({"model_type: SRModel": "model_type: HATModel\ntile: {}\ngt_usm: true"}, "model_type"),
        ({"type: PairedImageDataset": "type: ImageNetPairs"}, "datasets.train.type"),
    ],
)
def test_a_class_of_another_project_is_refused_with_the_way_to_bring_it(
    tmp_path: Path, changes: dict[str, str], key: str
) -> None:
    with refuses(key, "imports", "--import", "docs/plugins.md", without=["gt_usm"]):
        load_text(TRAINING["EDSR"], tmp_path, changes)


def test_a_model_of_another_project_lies_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is BasicSR's kin, so it may read any key."""
    from basicsr.models.sr_model import SRModel

    from kdsr_arch.registry import MODEL_REGISTRY, names

    names("model")
    model: Any = type("HATModel", (SRModel,), {"__module__": "kdsr_arch.train.hat_model"})
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, "HATModel", model)
    changes = {"model_type: SRModel": "model_type: HATModel\ntile: {tile_size: 256}"}
    assert load_text(TRAINING["EDSR"], tmp_path, changes).plain()["tile"] == {"tile_size": 256}


def test_a_model_derived_from_ours_may_read_any_key_and_needs_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdsr_arch.registry import MODEL_REGISTRY, names
    from kdsr_arch.train.distill_model import DistillModel

    names("model")
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, "MyDistillModel", type("MyDistillModel", (DistillModel,), {}))
    changes = {"model_type: SRModel": "model_type: MyDistillModel\nof_mine: 3"}
    assert load_text(TRAINING["EDSR"], tmp_path, changes).plain()["of_mine"] == 3
    with refuses("scale", "required"):
        load_text(TRAINING["EDSR"], tmp_path, {**changes, "scale: 4\n": ""})


def load_text(text: str, folder: Path, changes: dict[str, str] | None = None) -> Any:
    """Load a training file's text, with parts of it replaced."""
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "a.yml"
    path.write_text(text)
    return load_options(path, is_train=True, root=folder)


def test_the_table_of_keys_is_what_basicsr_reads() -> None:
    """A class that BasicSR registers reads its own keys beside those of the classes above it."""
    from kdsr_arch import registry
    from kdsr_arch.options.components import BASICSR_KEYS
    from scripts.basicsr_keys import dataset_keys, model_keys

    for name, keys in BASICSR_KEYS["data sets"].items():
        assert set(keys) == dataset_keys(registry.lookup("data set", name))
    for name, keys in BASICSR_KEYS["models"].items():
        assert set(keys) <= model_keys(registry.lookup("model", name))
    assert {"train.tsa_iter", "train.dcn_lr_mul"} <= set(BASICSR_KEYS["models"]["EDVRModel"])
    assert "train.tsa_iter" not in BASICSR_KEYS["models"]["SRModel"]


class _TakesOneMapping:
    def __init__(self, params: dict) -> None:
        self.params = params


class _TakesAnything:
    def __init__(self, scale: int, **more: int) -> None:
        self.scale = scale


@pytest.mark.parametrize("cls", [_TakesOneMapping, _TakesAnything])
def test_a_class_of_the_users_is_not_refused_for_keys_that_nobody_can_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type
) -> None:
    from kdsr_arch.registry import DATASET_REGISTRY, MODEL_REGISTRY, names

    names("model")  # all that are registered on import
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "Mine", cls)
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, "MyModel", cls)
    path = tmp_path / "a.yml"
    text = TRAINING["EDSR"].replace(
        "model_type: SRModel", "model_type: MyModel\nof_mine: 3\nnetwork_x: {type: MSRResNet}"
    )
    path.write_text(text.replace("type: PairedImageDataset", "type: Mine\n    depth: 2\n    scale: 4"))
    opt = load_options(path, is_train=True, root=tmp_path)
    assert opt.datasets["train"].keywords()["depth"] == 2
    assert opt.plain()["of_mine"] == 3
    assert opt.networks["network_x"].type == "MSRResNet"
