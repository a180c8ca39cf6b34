"""A sequence of trainings in one option file is those trainings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdsr_arch.cli import main
from kdsr_arch.errors import OptionErrors
from kdsr_arch.infer.open import open_network
from kdsr_arch.options import load_options, read_parts
from kdsr_arch.options.documents import lay_over
from tests.helpers.images import write_textures
from tests.helpers.messages import missing, refuses

DECODER = {"type": "FSRCNN", "d": 6, "s": 4, "m": 1}
STUDENT = {**DECODER, "scale": 2}
TEACHER = {"type": "PISRTeacher", "scale": 2, "wide": 4, "narrow": 4, "decoder": DECODER}
IMITATION = {"imitation": {"type": "L1Loss", "student": "encoder", "teacher": "lq", "loss_weight": 1e-4}}
TAUGHT = {"pisr": {"type": "PISRLoss", "distribution": "laplace", "at": "expanding", "loss_weight": 0.1}}


@pytest.fixture
def common(tmp_path: Path) -> dict[str, Any]:
    """Options of both parts, on four small images."""
    folder = write_textures(tmp_path / "images", 4, 48, 48)
    data = {
        "type": "ImagePairDataset",
        "dataroot_gt": str(folder),
        "degradation": "BI",
        "color": "y",
        "gt_size": 16,
        "batch_size_per_gpu": 2,
        "num_worker_per_gpu": 0,
    }
    train = {
        "total_iter": 3,
        "ema_decay": 0.9,
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0},
    }
    return {
        "model_type": "ImageDistillModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {"train": data},
        "train": train,
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
    }


def _parts(root: Path, name: str) -> list[dict[str, Any]]:
    weights = str(root / "experiments" / name / "teacher" / "models" / "net_g_latest.pth")
    path = {
        "pretrain_network_t": weights,
        "param_key_t": "params_ema",
        "pretrain_network_g": weights,
        "param_key_g": "decoder",
    }
    return [
        {"name": "teacher", "network_g": TEACHER, "train": {"distill_opt": IMITATION}},
        {"name": "student", "network_g": STUDENT, "network_t": TEACHER, "path": path, "train": {"distill_opt": TAUGHT}},
    ]


def _write(file: Path, content: dict[str, Any]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def _train(file: Path, root: Path, *flags: str) -> int:
    return main(["train", "-opt", str(file), "--root", str(root), *flags])


def _weights(root: Path, name: str) -> dict[str, torch.Tensor]:
    file = root / "experiments" / name / "models" / "net_g_latest.pth"
    return torch.load(file, weights_only=True)["params_ema"]


def test_a_sequence_trains_what_its_parts_train_as_files_of_their_own(common, tmp_path: Path):
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": _parts(tmp_path, "whole")})
    assert _train(file, tmp_path) == 0
    for part in _parts(tmp_path, "apart"):
        alone = lay_over(common, part) | {"name": f"apart/{part['name']}"}
        assert _train(_write(tmp_path / "options" / f"{part['name']}.yml", alone), tmp_path) == 0
    for part in ("teacher", "student"):
        whole, apart = _weights(tmp_path, f"whole/{part}"), _weights(tmp_path, f"apart/{part}")
        assert all(torch.equal(whole[key], apart[key]) for key in apart)
    start = _weights(tmp_path, "whole/teacher")
    assert any(not torch.equal(start[f"decoder.{key}"], value) for key, value in whole.items()), "the student trained"


def test_what_a_part_trains_is_found_below_root(common, tmp_path: Path):
    """The option file lies in one project, `--root` is another folder: relative paths name what lies there."""
    (tmp_path / "out").mkdir()
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": _parts(Path(), "whole")})
    assert _train(file, tmp_path / "out") == 0
    assert _weights(tmp_path / "out", "whole/student")


def test_auto_resume_passes_over_finished_parts(common, tmp_path: Path, capsys):
    parts = _parts(tmp_path, "whole")
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": parts})
    assert _train(file, tmp_path) == 0
    student, teacher = (tmp_path / "experiments" / "whole" / part for part in ("student", "teacher"))
    expected = _weights(tmp_path, "whole/student")
    (student / "models" / "net_g_latest.pth").unlink()  # as where the student's part was cut off
    (student / "training_states" / "3.state").unlink()
    before = (teacher / "models" / "net_g_latest.pth").stat().st_mtime_ns
    parts[0]["train"] = {**parts[0]["train"], "optim_g": {"type": "Adam", "lr": 0.5}}
    _write(file, {"name": "whole", **common, "sequence": parts})
    capsys.readouterr()
    assert _train(file, tmp_path, "--auto_resume") == 0
    assert (teacher / "models" / "net_g_latest.pth").stat().st_mtime_ns == before
    assert all(torch.equal(value, expected[key]) for key, value in _weights(tmp_path, "whole/student").items())
    said = capsys.readouterr().err
    assert "whole/teacher (1 of 2): finished already" in said
    assert not missing(said, "do not take effect", "train.optim_g.lr: 0.001 -> 0.5", teacher)


def test_a_finished_student_of_a_teacher_that_was_trained_on_is_told(common, tmp_path: Path, capsys):
    parts = _parts(tmp_path, "whole")
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": parts})
    assert _train(file, tmp_path) == 0
    assert _train(file, tmp_path, "--auto_resume") == 0
    assert "weights" not in capsys.readouterr().err
    parts[0]["train"] = {**parts[0]["train"], "total_iter": 4}
    _write(file, {"name": "whole", **common, "sequence": parts})
    assert _train(file, tmp_path, "--auto_resume") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "weights changed" in line]
    teacher, student = (tmp_path / "experiments" / "whole" / part for part in ("teacher", "student"))
    assert not missing(line, "whole/student", "network_t", teacher / "models" / "net_g_latest.pth", student)


def test_a_finished_part_that_started_from_weights_that_were_trained_anew_is_told(common, tmp_path: Path, capsys):
    first = {"name": "first", "network_g": STUDENT}
    path = {"pretrain_network_g": str(tmp_path / "experiments/whole/first/models/net_g_latest.pth")}
    second = {"name": "second", "network_g": STUDENT, "path": path}
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": [first, second]})
    assert _train(file, tmp_path) == 0
    folder = tmp_path / "experiments" / "whole"
    for changed in (False, True):
        if changed:
            shutil.rmtree(folder / "first")
            first["manual_seed"] = 5
            _write(file, {"name": "whole", **common, "sequence": [first, second]})
        capsys.readouterr()
        assert _train(file, tmp_path, "--auto_resume") == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "started from" in line]
        assert len(lines) == changed
    assert not missing(lines[0], "whole/second", "network_g", path["pretrain_network_g"], folder / "second")


def test_a_part_that_begins_is_not_taken_for_a_renamed_one(common, tmp_path: Path, capsys):
    """The option file that lies in the folder of the part before is the copy that each part keeps."""
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": _parts(tmp_path, "whole")})
    assert _train(file, tmp_path) == 0
    folder = tmp_path / "experiments" / "whole"
    shutil.rmtree(folder / "student")
    capsys.readouterr()
    assert _train(folder / "teacher" / "s.yml", tmp_path, "--auto_resume") == 0
    said = capsys.readouterr().err
    assert f"no state in {folder / 'student' / 'training_states'}" in said and "set name" not in said


def test_mappings_are_merged_types_replaced_and_null_takes_away():
    base = {"a": {"b": 1, "c": 2}, "net": {"type": "X", "width": 3}, "gone": 1}
    laid = lay_over(base, {"a": {"c": 5}, "net": {"type": "Y"}, "gone": None, "new": [1]})
    assert laid == {"a": {"b": 1, "c": 5}, "net": {"type": "Y"}, "new": [1]}
    assert base["a"] == {"b": 1, "c": 2}


def test_a_fault_names_its_part_and_line(common, tmp_path: Path):
    parts = _parts(tmp_path, "whole")
    parts[1]["train"]["total_itre"] = 4
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": parts})
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "total_itre" in text)
    assert _train(file, tmp_path) == 2
    assert not (tmp_path / "experiments").exists(), "all parts are checked before the first is trained"
    with refuses(file, "'student'", "train.total_itre", f"line {line}", near="total_iter", kind=OptionErrors):
        from kdsr_arch.options import complete

        complete(read_parts(file)[1], is_train=True, path=file)


A = {"name": "a"}


@pytest.mark.parametrize("sequence", [[], A, [A], [A, A], [A, 3], [A, {"network_g": {}}]])
def test_a_sequence_is_a_list_of_named_parts(common, tmp_path: Path, sequence):
    file = _write(tmp_path / "s.yml", {"name": "whole", **common, "sequence": sequence})
    with refuses(file, "sequence", kind=OptionErrors):
        read_parts(file)


def test_testing_does_not_take_a_sequence(common, tmp_path: Path):
    file = _write(tmp_path / "s.yml", {"name": "whole", **common, "sequence": _parts(tmp_path, "whole")})
    with refuses(file, "sequence", "kdsr train"):
        load_options(file, is_train=False)


def _check(tmp_path: Path, common: dict[str, Any], parts: list[dict[str, Any]]) -> int:
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": parts})
    return main(["check", "-opt", str(file)])


def test_check_tries_every_part_before_any_is_trained(common, tmp_path: Path, capsys):
    assert _check(tmp_path, common, _parts(tmp_path, "whole")) == 0
    said = capsys.readouterr().out
    assert "imitation" in said and "pisr" in said and "expanding" in said
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("train", {"distill_opt": {"pisr": {**TAUGHT["pisr"], "at": "expandin"}}}, "train.distill_opt.pisr"),
        ("network_t", {**TEACHER, "wide": 6}, "experiments/whole/teacher/models/net_g_latest.pth"),
    ],
)
def test_what_would_stop_a_later_part_is_found_before_any_training(key, value, named, common, tmp_path: Path, capsys):
    """A tap that does not exist, and a teacher that is not the network which the part before trains."""
    parts = _parts(tmp_path, "whole")
    parts[1][key] = value
    assert _check(tmp_path, common, parts) == 2
    assert not missing(capsys.readouterr().err, named)
    assert _train(tmp_path / "options" / "s.yml", tmp_path) == 2
    assert not missing(capsys.readouterr().err, named)
    assert not (tmp_path / "experiments").exists()  # no part was trained before it


@pytest.mark.parametrize("file", ["9.pth", "2.pth", "best.pth", "latest.safetensors", "hello.pth"])
def test_what_the_part_before_will_not_write_is_found_before_any_training(file, common, tmp_path: Path, capsys):
    """It has 3 iterations, of which the last alone is kept, and no validation."""
    common["logger"]["keep_last"] = 1
    parts = _parts(tmp_path, "whole")
    for name, code in (("3.pth", 0), (file, 2)):
        parts[1]["path"]["pretrain_network_t"] = str(tmp_path / f"experiments/whole/teacher/models/net_g_{name}")
        assert _check(tmp_path, common, parts) == code
    assert not missing(capsys.readouterr().err, "path.pretrain_network_t", f"no net_g_{file}", "net_g_latest.pth")


def test_what_a_part_trained_is_opened_upscaled_and_exported(common, tmp_path: Path):
    file = _write(tmp_path / "options" / "s.yml", {"name": "whole", **common, "sequence": _parts(tmp_path, "whole")})
    assert _train(file, tmp_path) == 0
    folder = tmp_path / "experiments" / "whole"
    weights = folder / "student" / "models" / "net_g_latest.pth"
    assert [open_network(folder / part / "models" / "net_g_3.pth").network for part in ("teacher", "student")] == [
        TEACHER,
        STUDENT,
    ]
    assert open_network(weights, option_file=file).traits.scale == 2
    image = next((tmp_path / "images").iterdir())
    assert main(["upscale", str(image), "-o", str(tmp_path / "big.png"), "--weights", str(weights)]) == 0
    assert main(["export", str(weights), "-o", str(tmp_path / "student.safetensors")]) == 0
    elsewhere = shutil.copy(weights, tmp_path / "copy.pth")
    with refuses(file, "teacher, student", "--network"):
        open_network(elsewhere, option_file=file)
