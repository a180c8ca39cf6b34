"""safetensors: what a training writes, every reader of weights takes; what is damaged or pickled, none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from kdsr_arch import cli
from kdsr_arch.errors import UserError
from kdsr_arch.infer.open import load_weights, read_weights
from kdsr_arch.io import load_tensors, read_groups, read_safetensors, write_groups
from kdsr_arch.registry import build
from tests.fuzz.payloads import Calls
from tests.helpers.images import write_textures
from tests.helpers.messages import missing, refuses

pytest.importorskip("safetensors")
NET = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}


def groups() -> dict[str, dict[str, torch.Tensor]]:
    return {
        "params": {"a.weight": torch.arange(6.0).reshape(2, 3).t(), "n": torch.tensor(3)},
        "params_ema": {"a.weight": torch.ones(3, 2, dtype=torch.bfloat16), "n": torch.tensor(True)},
    }


def test_groups_survive_with_kinds_and_shapes(tmp_path: Path) -> None:
    write_groups(groups(), tmp_path / "x.safetensors")
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert list(loaded) == ["params", "params_ema"]
    for group, weights in groups().items():
        assert loaded[group].keys() == weights.keys()
        for name, value in weights.items():
            assert loaded[group][name].dtype == value.dtype and torch.equal(loaded[group][name], value)


def test_the_choice_between_trained_and_averaged_is_that_of_pth(tmp_path: Path) -> None:
    state = {"params": {"w": torch.zeros(2)}, "params_ema": {"w": torch.ones(2)}}
    write_groups(state, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "x.pth")
    for key in ("params", "params_ema", None):
        ours, theirs = (read_weights(tmp_path / f"x.{ending}", key)["w"] for ending in ("safetensors", "pth"))
        assert torch.equal(ours, theirs)


def test_files_of_other_programs_are_plain_state_dicts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    net = build("network", NET, "network_g")
    save_file(net.state_dict(), tmp_path / "x.safetensors")
    other = build("network", NET, "network_g")
    load_weights(other, tmp_path / "x.safetensors", "params")
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # a single bit of the last tensor
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_flip, "checksum"),
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), "damaged"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: p.write_bytes(b"\xff" * 100), "damaged"),
        (lambda p: torch.save({"params": Calls(os.mkdir, str(p.parent / "boom"))}, p), "damaged"),
        (lambda p: p.unlink(), "no such"),
    ],
)
def test_a_harmed_file_is_refused_in_one_sentence(harm, reason, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_groups(groups(), path)
    harm(path)
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and not missing(str(caught.value), path, reason)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("facts", ["{", "5", "[1]", json.dumps(["other"])])
def test_metadata_that_do_not_fit_are_refused(facts, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"params.w": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"kdsr_groups": facts})
    with refuses(tmp_path / "x.safetensors", "damaged"):
        read_groups(tmp_path / "x.safetensors")


def test_what_is_no_tensor_cannot_be_written(tmp_path: Path) -> None:
    with refuses(tmp_path / "x.safetensors", "'params.x'", "checkpoint_format"):
        write_groups({"params": {"x": 1}}, tmp_path / "x.safetensors")  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ every reader


@pytest.fixture
def commands(tmp_path: Path):
    """Command lines of every reader of a file of weights; each writes below `tmp_path`/out only."""
    frames, out = write_textures(tmp_path / "frames", 2, 32, 32), tmp_path / "out"
    out.mkdir()

    def make(weights: Path) -> dict[str, list[str]]:
        images = {"type": "ImagePairDataset", "dataroot_gt": str(frames), "degradation": "BI"}
        base = {"name": "x", "model_type": "ImageDistillModel", "scale": 2, "num_gpu": 0, "network_g": NET}
        train = {"total_iter": 1, "optim_g": {"type": "Adam", "lr": 1e-4}, "pixel_opt": {"type": "L1Loss"}}
        data = {"train": {**images, "gt_size": 16, "batch_size_per_gpu": 1, "num_worker_per_gpu": 0}}
        taught = {"distill_opt": {"out": {"type": "L1Loss"}}}
        spandrel = {"network_t": {"type": "spandrel", "path": str(weights)}}
        files = {
            "train": {**base, "datasets": data, "train": train, "path": {"pretrain_network_g": str(weights)}},
            "teacher": {
                **base, "datasets": data, "train": {**train, **taught}, "network_t": NET,
                "path": {"pretrain_network_t": str(weights)},
            },
            "spandrel": {**base, "datasets": data, "train": {**train, **taught}, **spandrel},
            "SRModel": {
                **base, "model_type": "SRModel", "datasets": data, "train": train,
                "path": {"pretrain_network_g": str(weights)},
            },
            "resume": {**base, "datasets": data, "train": train, "path": {"resume_state": str(weights)}},
            "test": {
                **base, "datasets": {"test": {**images, "name": "X"}}, "path": {"pretrain_network_g": str(weights)},
                "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2}}, "speed_size": None},
            },
        }  # fmt: skip
        for name, opt in files.items():
            (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(opt))
        network = json.dumps(NET)
        lines = {name: ["train", "-opt", str(tmp_path / f"{name}.yml")] for name in files if name != "test"}
        return {
            **lines,
            "test": ["test", "-opt", str(tmp_path / "test.yml")],
            "upscale": ["upscale", str(frames), "-o", str(out / "up"), "--weights", str(weights), "--network", network],
            "export": ["export", str(weights), "--network", network, "-o", str(out / "x.safetensors")],
            "convert": ["convert", "vdsr", str(weights), "-o", str(out / "v.pth")],
        }

    return make


READERS = ["train", "teacher", "spandrel", "SRModel", "resume", "test", "upscale", "export", "convert"]


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("reader", READERS)
def test_a_pickled_payload_is_refused_in_one_sentence_by(reader, ending, commands, tmp_path, capfd) -> None:
    weights = tmp_path / f"evil{ending}"
    torch.save({"params": {"w": torch.ones(1), "x": Calls(os.mkdir, str(tmp_path / "boom"))}}, weights)
    code = cli.main(commands(weights)[reader], root=tmp_path / "root")
    err = capfd.readouterr().err
    assert not (tmp_path / "boom").exists() and not (tmp_path / "root" / "experiments").exists()
    assert code == 2 and "Traceback" not in err, err
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and f"evil{ending}" in said[0]
    assert ("may run code" if ending == ".pth" else "no safetensors file") in said[0]


@pytest.mark.parametrize("reader", ["train", "teacher", "SRModel", "test", "upscale", "export"])
def test_a_training_s_safetensors_is_read_by(reader, commands, tmp_path, capfd) -> None:
    net = build("network", NET, "network_g")
    about = {"network": NET, "scale": 2}
    write_groups({"params": net.state_dict(), "params_ema": net.state_dict()}, tmp_path / "g.safetensors", about)
    assert cli.main(commands(tmp_path / "g.safetensors")[reader], root=tmp_path / "root") == 0, capfd.readouterr().err


def test_upscale_builds_the_network_from_the_file_alone(commands, tmp_path, capfd) -> None:
    write_groups(
        {"params": build("network", NET, "network_g").state_dict()},
        tmp_path / "g.safetensors",
        {"network": NET, "scale": 2},
    )
    words = commands(tmp_path / "g.safetensors")["upscale"][:-2]
    assert cli.main(words) == 0, capfd.readouterr().err
    assert len(list((tmp_path / "out" / "up").glob("*.png"))) == 2


@pytest.mark.parametrize("model_type", ["ImageDistillModel", "SRModel"])
def test_a_training_writes_and_resumes_safetensors(model_type, commands, tmp_path, capfd) -> None:
    write_groups({"params": build("network", NET, "network_g").state_dict()}, tmp_path / "g.safetensors")
    commands(tmp_path / "g.safetensors")
    opt = yaml.safe_load((tmp_path / "train.yml").read_text()) | {"model_type": model_type}
    opt["train"] |= {"total_iter": 4, "ema_decay": 0.5}
    opt["logger"] = {"save_checkpoint_freq": 2, "keep_last": 1, "checkpoint_format": "safetensors", "print_freq": 1}
    (tmp_path / "o.yml").write_text(yaml.safe_dump(opt))
    assert cli.main(["train", "-opt", str(tmp_path / "o.yml")], root=tmp_path) == 0, capfd.readouterr().err
    models = tmp_path / "experiments" / "x" / "models"
    assert sorted(p.name for p in models.iterdir()) == ["net_g_4.safetensors", "net_g_latest.safetensors"]
    state = torch.load(models.parent / "training_states" / "4.state", weights_only=True)["model"]
    own = state["net_g"] if model_type == "ImageDistillModel" else state["networks"]["net_g"]
    ours = read_groups(models / "net_g_4.safetensors")
    assert set(ours) == {"params", "params_ema"} and all(torch.equal(v, own[k]) for k, v in ours["params"].items())
    facts = json.loads(read_safetensors(models / "net_g_4.safetensors")[1]["kdsr"])
    assert facts == {"network": NET, "scale": 2}


def test_a_pickled_payload_that_a_network_reads_itself_is_refused(tmp_path: Path) -> None:
    torch.save({"params": Calls(os.mkdir, str(tmp_path / "boom"))}, tmp_path / "spynet.pth")
    for network in (
        {"type": "BasicVSR", "num_feat": 8, "num_block": 1, "spynet_path": str(tmp_path / "spynet.pth")},
        {"type": "VSRNet", "flow": "spynet", "spynet_path": str(tmp_path / "spynet.pth")},
    ):
        with refuses("code"):
            build("network", network, "network_g")
    with refuses("network_g", "BasicVSR", tmp_path / "none.pth"):
        build("network", {"type": "BasicVSR", "spynet_path": str(tmp_path / "none.pth")}, "network_g")
    assert not (tmp_path / "boom").exists()
