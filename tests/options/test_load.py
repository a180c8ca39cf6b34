"""What `load_options` gives: defaults, paths, debug mode, forced options."""

from pathlib import Path

import pytest
import torch

from kdsr_arch.errors import OptionErrors
from kdsr_arch.options import Options, load_options, project_root
from tests.helpers.messages import missing

TEXT = """\
name: tiny
model_type: SRModel
scale: 4
num_gpu: auto
datasets:
  train:
    type: PairedImageDataset
    dataroot_gt: data/hr
    dataroot_lq: data/lr
    gt_size: 64
    batch_size_per_gpu: 2
  val_2: {type: SingleImageDataset, dataroot_lq: data/lr}
network_g: {type: MSRResNet, num_feat: 8, num_block: 1}
path: {pretrain_network_g: weights/g.pth}
train:
  total_iter: 1e2
  optim_g: {type: AdamW, lr: 1e-4}
  scheduler: {type: MultiStepLR, milestones: [50, 80]}
  pixel_opt: {type: L1Loss}
"""


@pytest.fixture
def option_file(tmp_path: Path) -> Path:
    path = tmp_path / "options" / "tiny.yml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def forced(option_file: Path, *entries: str) -> Options:
    return load_options(option_file, is_train=True, force=entries)


def test_numbers_and_defaults(option_file: Path) -> None:
    opt = load_options(option_file, is_train=True)
    assert (opt.train.optim_g.type, opt.train.optim_g.keywords()) == ("AdamW", {"lr": 1e-4})
    assert opt.train.total_iter == 100 and isinstance(opt.train.total_iter, int)
    assert opt.train.ema_decay == 0 and opt.train.amp == "no" and opt.train.ratio_freq == 100
    assert opt.train.distill_opt == {} and opt.train.stages == []
    assert opt.logger.print_freq == 100 and opt.manual_seed == 0
    assert opt.path.weights("t") is None and opt.path.resume_state is None
    assert opt.val is None and opt.network_t is None and not opt.teachers
    assert opt.num_gpu == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_data_sets_get_scale_and_name(option_file: Path) -> None:
    opt = load_options(option_file, is_train=True)
    assert [(key, d.scale, d.name) for key, d in opt.datasets.items()] == [("train", 4, "train"), ("val_2", 4, "val_2")]
    assert opt.phase("val") == {"val_2": opt.datasets["val_2"]}
    assert opt.datasets["train"].num_worker_per_gpu == 2 and opt.datasets["train"].clip_length is None


def test_folders_of_a_training(option_file: Path, tmp_path: Path) -> None:
    opt = load_options(option_file, is_train=True)
    home = tmp_path / "experiments" / "tiny"
    assert opt.folder == home and opt.is_train
    assert not (tmp_path / "experiments").exists()


def test_folders_of_a_test_and_no_training_set(option_file: Path, tmp_path: Path) -> None:
    opt = load_options(option_file, is_train=False)
    assert opt.folder == tmp_path / "results" / "tiny"
    assert list(opt.datasets) == ["val_2"]
    assert opt.val and opt.val.save_img is False and opt.val.suffix is None


def test_relative_paths(option_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the current folder where that has them, or else from the project's folder."""
    here = tmp_path / "elsewhere"
    (here / "data" / "hr").mkdir(parents=True)
    (tmp_path / "data" / "lr").mkdir(parents=True)
    monkeypatch.chdir(here)
    opt = load_options(option_file, is_train=True)
    training = opt.datasets["train"]
    assert Path(str(training.dataroot_gt)).resolve() == here / "data" / "hr"
    assert training.dataroot_lq == str(tmp_path / "data" / "lr")
    assert opt.path.weights("g") == (str(tmp_path / "weights" / "g.pth"), "params", True)


def test_project_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_root(tmp_path / "p" / "options" / "paper" / "a.yml") == tmp_path / "p"
    assert project_root(tmp_path / "p" / "experiments" / "bench" / "options" / "a.yml") == tmp_path / "p"
    assert project_root(tmp_path / "p" / "a.yml") == tmp_path
    (tmp_path / "disk").mkdir()
    (tmp_path / "p" / "experiments").mkdir(parents=True)
    (tmp_path / "p" / "experiments" / "bench").symlink_to(tmp_path / "disk")
    assert project_root(tmp_path / "p" / "experiments" / "bench" / "run" / "a.yml") == tmp_path / "p"


def test_given_root(option_file: Path, tmp_path: Path) -> None:
    assert load_options(option_file, is_train=True, root=tmp_path / "out").folder == tmp_path / "out/experiments/tiny"


def test_debug_mode(option_file: Path) -> None:
    opt = load_options(option_file, is_train=True, force=["val:val_freq=100"], debug=True)
    assert opt.name == "debug_tiny" and opt.folder.name == "debug_tiny"
    assert opt.val and (opt.val.val_freq, opt.logger.print_freq, opt.logger.save_checkpoint_freq) == (8, 1, 8)


def test_more_gpus_than_there_are(option_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    opt = forced(option_file, "num_gpu=512")
    assert opt.num_gpu == torch.cuda.device_count()
    assert "num_gpu: 512 asked for" in caplog.text


def test_forced_values_are_yaml(option_file: Path) -> None:
    opt = forced(
        option_file, "train:optim_g:lr=2e-3", "train:scheduler:milestones=[1, 2, 3]", "train:scheduler:milestones:1=20",
        "train:amp=no", "manual_seed=7", "datasets:train:color=~", "logger:wandb:project=a=b",
        "train:scheduler:milestones:2=30",
    )  # fmt: skip
    assert opt.train.optim_g.lr == 2e-3
    assert opt.train.scheduler and opt.train.scheduler.milestones == [1, 20, 30]
    assert opt.train.amp == "no" and opt.manual_seed == 7 and opt.datasets["train"].color is None
    assert opt.logger.wandb and opt.logger.wandb.project == "a=b"


@pytest.mark.parametrize("text", ["{}x4", "{}_LR.x", "*_{}", "%s", "@x", "a.{}.b"])
def test_forced_texts_need_no_quotes(option_file: Path, text: str) -> None:
    """No YAML begins so."""
    opt = forced(option_file, f"datasets:train:filename_tmpl={text}")
    assert opt.datasets["train"].filename_tmpl == text


def test_forced_null_takes_a_key_out(option_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    opt = forced(option_file, "network_g:num_feat=null", "datasets:val_2=~", "path=", "network_t=null", "frob:x=~")
    assert opt.network_g.keywords() == {"num_block": 1} and set(opt.datasets) == {"train"}
    assert opt.path.weights("g") is None and not opt.path.model_fields_set
    notes = [record.getMessage() for record in caplog.records if "take out" in record.getMessage()]
    assert [note.split()[1] for note in notes] == ["network_t=null:", "frob:x=~:"]
    with pytest.raises(OptionErrors) as caught:
        forced(option_file, "train:optim_g:type=null", "name=null")
    assert not missing(str(caught.value), "name", "train.optim_g.type", "--force_yml")


def test_null_stays_where_it_is_a_choice(option_file: Path) -> None:
    """Beside a default that is none: no measurement of speed; the file's weights whatever they are."""
    opt = forced(option_file, "val:speed_size=null", "path:param_key_g=null")
    assert opt.val and opt.val.speed_size is None and opt.path.param_key_g is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("train:total_itr=5", "train.total_itr: unknown key (did you mean 'total_iter'?) (--force_yml)"),
        ("train:total_iter=abc", "train.total_iter: must be a whole number, not the text 'abc' (--force_yml)"),
        ("tarin:total_iter=5", "tarin: unknown key (did you mean 'train'"),
        ("train:total_iter", "must have the form key:sub=value"),
        ("train::total_iter=5", "must have the form key:sub=value"),
        ("train:total_iter:x=5", "'train:total_iter' is 100, so it has no 'x'"),
        ("train:scheduler:milestones:5=1", "'train:scheduler:milestones' is a list, so it has no '5'"),
        ("name=[1", "is not YAML"),
        ("name=__import__('os').getcwd()", ""),
    ],
)
def test_forced_faults(option_file: Path, entry: str, words: str) -> None:
    if not words:  # a text like any other: nothing is evaluated
        assert forced(option_file, entry).name == "__import__('os').getcwd()"
        return
    with pytest.raises(OptionErrors) as caught:
        forced(option_file, entry)
    assert any(words in fault for fault in caught.value.faults), caught.value.faults


def test_forced_faults_come_at_once(option_file: Path) -> None:
    with pytest.raises(OptionErrors) as caught:
        forced(option_file, "a", "b")
    assert len(caught.value.faults) == 2


def test_backend_is_filled_in_for_basicsr_only(option_file: Path) -> None:
    """BasicSR's data sets need the key; ours tell LMDB by the folder's name."""
    ours = "datasets:val_3={type: ClipDataset, dataroot_gt: a.lmdb}"
    datasets = forced(option_file, ours).datasets
    assert datasets["train"].plain()["io_backend"] == {"type": "disk"} and datasets["val_3"].io_backend is None
