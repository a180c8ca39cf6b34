"""BasicSR's own models behind the bridge: their step, everybody's optimizers, an exact state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models.sr_model import SRModel

from kdsr_arch.registry import MODEL_REGISTRY
from kdsr_arch.train.bridge import BridgedModel, BridgedTrainer, basicsr_options
from kdsr_arch.train.checkpoint import seed_everything
from kdsr_arch.train.meter import NonFiniteError
from tests.helpers.messages import refuses
from tests.helpers.options import make_options
from tests.helpers.trainers import make_trainer, train

SRNET = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
EDVR = {
    "type": "EDVR",
    **{"num_feat": 8, "num_frame": 3, "deformable_groups": 2, "num_extract_block": 1},
    **{"num_reconstruct_block": 1, "center_frame_idx": None, "with_tsa": True},
}
DISCRIMINATOR = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}


def options(model_type: str = "SRModel", network: dict | None = None, **train: Any) -> dict[str, Any]:
    base = {"total_iter": 10, "ema_decay": 0.5, "optim_g": {"type": "Adam", "lr": 1e-3, "betas": None}}
    base |= {"scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5}, "pixel_opt": {"type": "L1Loss"}}
    return {"model_type": model_type, "scale": 2, "network_g": network or SRNET, "train": {**base, **train}}


def bridged(values: dict[str, Any]) -> BridgedTrainer:
    trainer = make_trainer(values, batches(values["model_type"], 1)[0], BridgedTrainer)
    torch.manual_seed(0)
    return trainer


def batches(model_type: str, count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    video = model_type == "EDVRModel"
    shape, scale = ((1, 3, 3, 16, 16), 4) if video else ((2, 3, 8, 8), 2)
    gt = (1, 3, 64, 64) if video else (2, 3, 8 * scale, 8 * scale)
    return [
        {"lq": torch.rand(shape, generator=generator), "gt": torch.rand(gt, generator=generator)} for _ in range(count)
    ]


def test_step_is_basicsrs() -> None:
    """The same weights as BasicSR's own SRModel under its own loop."""
    ours = bridged(options())
    seed_everything(0)
    reference = SRModel(basicsr_options(make_options(options())))
    for iteration, batch in enumerate(batches("SRModel", 4), start=1):
        reference.update_learning_rate(iteration)
        reference.feed_data(batch)
        reference.optimize_parameters(iteration)
    train(ours, batches("SRModel", 4))
    for name in ("net_g", "net_g_ema"):
        theirs = getattr(reference, name).state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in getattr(ours.model.model, name).state_dict().items())
    assert ours.figures() == reference.get_current_log()
    assert ours.model.rates() == reference.get_current_learning_rate() == [5e-4]


GAN = {
    "optim_d": {"type": "Adam", "lr": 1e-3},
    "gan_opt": {
        "type": "GANLoss",
        "gan_type": "vanilla",
        "real_label_val": 1.0,
        "fake_label_val": 0.0,
        "loss_weight": 0.1,
    },
}


class Adapted(SRModel):
    """A user's model, which trains an adapter of its own beside the network."""

    def setup_optimizers(self) -> None:
        super().setup_optimizers()
        self.adapter = torch.nn.Conv2d(3, 3, 1)
        self.optimizers.append(self.get_optimizer("Adam", self.adapter.parameters(), lr=0.1))

    def optimize_parameters(self, current_iter: int) -> None:
        self.lq = self.adapter(self.lq)
        self.optimizers[1].zero_grad()
        super().optimize_parameters(current_iter)
        self.optimizers[1].step()


if Adapted.__name__ not in MODEL_REGISTRY:
    MODEL_REGISTRY.register(Adapted)
CASES: dict[str, dict[str, Any]] = {
    "Adapted": options("Adapted"),
    "SRModel": options(),
    "EDVRModel": options("EDVRModel", EDVR, tsa_iter=3, dcn_lr_mul=0.5),
    "SRGANModel": {**options("SRGANModel", **GAN), "network_d": DISCRIMINATOR},
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("stop_at", [1, 3])
def test_resumed_equals_unbroken(kind: str, stop_at: int) -> None:
    data = batches(kind, 5)
    whole, first, second = (bridged(CASES[kind]) for _ in range(3))
    first.model.load_state(whole.model.state())
    train(whole, data)
    train(first, data[:stop_at])
    second.model.load_state(first.model.state())
    train(second, data[stop_at:], stop_at)
    assert second.figures() == whole.figures()
    for mine, theirs in zip(second.model.modules(), whole.model.modules(), strict=True):
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.state_dict().items())
        assert [p.requires_grad for p in mine.parameters()] == [p.requires_grad for p in theirs.parameters()]


def test_what_a_users_model_trains_beside_its_network_is_shared_and_is_in_no_file() -> None:
    trainer = bridged(CASES["Adapted"])
    assert trainer.model.model.adapter in trainer.model.modules()
    assert list(trainer.model.network_files()) == ["net_g"]
    assert [*trainer.model.misfits({"networks": {}})][-1][0] == "model_type"


def test_frozen_parameters_are_part_of_the_state() -> None:
    trainer, other = (bridged(CASES["EDVRModel"]) for _ in range(2))
    train(trainer, batches("EDVRModel", 1))
    other.model.load_state(trainer.model.state())
    frozen = [k for k, p in other.model.model.net_g.named_parameters() if not p.requires_grad]
    assert frozen and all("fusion" not in k for k in frozen)


def test_check_takes_a_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = bridged(options())
    trainer.try_step()
    assert trainer.figures()["l_pix"] > 0
    net = type(trainer.model.model.net_g)
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda net, x: (forward(net, x), x))
    with refuses("network_g MSRResNet", "a tuple", "model_type SRModel"):
        trainer.try_step()
    monkeypatch.setattr(net, "forward", lambda net, x: forward(net, x[:, :2]))
    with refuses("model_type SRModel fails in its first step"):
        trainer.try_step()


def test_a_network_of_another_scale_is_named() -> None:
    with refuses("(1, 3, 32, 32)", "(1, 3, 16, 16)", "scale"):
        bridged(options(network={**SRNET, "upscale": 4})).try_step()


class Logging(SRModel):
    """A user's model, which leaves tensors where BasicSR's leave numbers."""

    whole = False

    def optimize_parameters(self, current_iter: int) -> None:
        super().optimize_parameters(current_iter)
        loss = (self.output - self.gt).abs()
        self.log_dict = {"l": loss if self.whole else loss.mean()}


if Logging.__name__ not in MODEL_REGISTRY:
    MODEL_REGISTRY.register(Logging)


def test_tensors_that_a_model_logs_are_numbers_in_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = bridged(options("Logging"))
    train(trainer, batches("Logging", 1))
    assert json.dumps(trainer.figures())
    monkeypatch.setattr(Logging, "whole", True)
    with refuses("model_type Logging", "log_dict['l']"):
        train(trainer, batches("Logging", 1), 1)


def test_the_one_frame_of_a_window_is_compared_with_its_own_clip_alone() -> None:
    video = batches("EDVRModel", 2)
    data = {name: torch.cat([batch[name] for batch in video]) for name in ("lq", "gt")}
    frames, images = bridged(CASES["EDVRModel"]), bridged(CASES["EDVRModel"])
    images.model.load_state(frames.model.state())
    train(frames, [{**data, "gt": data["gt"].unsqueeze(1)}])
    train(images, [data])
    assert frames.figures() == images.figures()


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 1, 16, 16), (1, 3, 16, 16), (2, 1, 3, 16, 16)])
def test_ground_truth_that_would_be_stretched_over_the_output_is_refused(shape: tuple[int, ...]) -> None:
    with refuses("ground truth", shape):
        train(bridged(options()), [batches("SRModel", 1)[0] | {"gt": torch.rand(shape)}])


@pytest.mark.parametrize(
    "gt", [None, torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 16), torch.zeros(1, 3, 1, 1)]
)
def test_a_sample_that_cannot_be_compared_is_refused_before_anything_is_trained(gt: torch.Tensor | None) -> None:
    sample = {"lq": torch.rand(1, 3, 8, 8)} | ({} if gt is None else {"gt": gt})
    with refuses("gt" if gt is None or gt.numel() > 3 else "ground truth"):
        make_trainer(options(), sample, BridgedTrainer)


def test_any_optimizer_and_clipping() -> None:
    trainer = bridged(options(optim_g={"type": "SGD", "lr": 1.0}, grad_clip=1e-3))
    model = trainer.model
    before = torch.cat([p.detach().flatten() for p in model.model.net_g.parameters()])
    train(trainer, batches("SRModel", 1))
    after = torch.cat([p.detach().flatten() for p in model.model.net_g.parameters()])
    assert (after - before).norm() == pytest.approx(1e-3, rel=1e-2)


def test_average_takes_the_buffers_along() -> None:
    trainer = bridged(options())
    model = trainer.model
    model.model.net_g.register_buffer("seen", torch.zeros(1))
    model.model.net_g_ema.register_buffer("seen", torch.zeros(1))
    model.model.net_g.seen += 3
    train(trainer, batches("SRModel", 1))
    assert model.model.net_g_ema.seen == 3


def test_files_are_basicsrs() -> None:
    model = BridgedModel(make_options(CASES["SRGANModel"]))
    files = model.network_files()
    assert {k: set(v) for k, v in files.items()} == {"net_g": {"params", "params_ema"}, "net_d": {"params"}}
    assert model.inference_network() is model.model.net_g_ema


def test_options_are_left_alone() -> None:
    opt = make_options(options())
    before = opt.model_copy(deep=True)
    BridgedModel(opt)
    assert opt == before


@pytest.mark.parametrize(
    ("opt", "names"),
    [
        (options(accumulation=2), ["train.accumulation", "SRModel"]),
        (options(amp="fp16"), ["train.amp", "SRModel", "bf16"]),
        (options("SRModell"), ["'SRModell'", "'SRModel'"]),
        (options(pixel_opt=None), ["model_type SRModel", "pixel"]),
        (options("ESRGANModel"), ["model_type ESRGANModel", "network_d"]),
        (
            {**options("SRGANModel", optim_d=GAN["optim_d"]), "network_d": DISCRIMINATOR},
            ["SRGANModel", "train.gan_opt"],
        ),
        (options("RealESRNetModel"), ["model_type RealESRNetModel", "CUDA"]),
        (options(network={"type": "BasicVSR", "spynet_path": "none.pth"}), ["model_type SRModel", "none.pth"]),
        (options("HiFaceGANModel"), ["model_type HiFaceGANModel", "EMA"]),
        (options(scheduler={"type": "StepLR", "step_size": 0}), ["train.scheduler", "StepLR", "iteration 2"]),
        (options(optim_g={"type": "Adamm", "lr": 1e-3}), ["train.optim_*.type", "'Adamm'", "'Adam'"]),
    ],
)
def test_what_it_cannot_do_is_told(opt: dict, names: list[str]) -> None:
    with refuses(*names):
        BridgedModel(make_options(opt))


def test_state_of_another_network_is_refused() -> None:
    other = BridgedModel(make_options(options(network={**SRNET, "num_feat": 6}))).state()
    with refuses("conv_first.weight"):
        BridgedModel(make_options(options())).load_state(other)


def test_non_finite_loss_is_named() -> None:
    trainer = bridged(options())
    data = batches("SRModel", 1)
    data[0]["gt"][0, 0, 0, 0] = float("inf")
    with refuses("iteration 1: l_pix", "gt", kind=NonFiniteError):
        train(trainer, data)


def test_what_basicsr_models_get(tmp_path: Path) -> None:
    opt = make_options(options(), tmp_path)
    values = basicsr_options(opt)
    assert (values["is_train"], values["dist"], values["rank"], values["world_size"]) == (True, False, 0, 1)
    assert {key: dataset["phase"] for key, dataset in values["datasets"].items()} == {"train": "train"}
    assert values["path"]["models"] == str(opt.folder / "models") and "resume_state" not in values["path"]
