"""BasicSR's own model types (SRModel, EDVRModel, ...), trained through this project's trainer.

A bridged model keeps BasicSR's training step; what surrounds it is replaced: any optimizer and schedule, weights read
as data with clear faults, gradients averaged without DistributedDataParallel, averages with buffers, and a complete,
exact training state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from torch import nn

from kdsr_arch.data.loader import to_device
from kdsr_arch.device import autocast, pick_device, use_channels_last
from kdsr_arch.distill.inputs import check_batch, unlike
from kdsr_arch.distill.taps import Batch
from kdsr_arch.distill.trial import fork_rng, undisturbed
from kdsr_arch.errors import ProgramFault, UserError
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.open import load_weights, misfits
from kdsr_arch.optim.update import (
    Schedule,
    build_optimizer,
    clip_gradients,
    gradient_norm,
    load_optimizer,
    optimizer_state,
)
from kdsr_arch.options.schema import Options
from kdsr_arch.options.schema_train import OptimizerOptions, SchedulerOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import is_basicsr, lookup
from kdsr_arch.train.checkpoint import PassingBuffers
from kdsr_arch.train.distill_model import cpu_copy
from kdsr_arch.train.meter import stop_if_nonfinite
from kdsr_arch.train.trainer import Trainer

# what BasicSR's models carry from step to step besides networks, optimizers and schedules
_CARRIED = ("queue_lr", "queue_gt", "queue_ptr", "mean_path_length", "log_dict")


def basicsr_options(opt: Options) -> dict[str, Any]:
    """Make the nested dict that BasicSR's models read: with folders, and as of a single process.

    Keys whose value is None are left out: BasicSR asks for their presence, not for their value.
    """
    folders = {"log": opt.folder, "experiments_root" if opt.is_train else "results_root": opt.folder}
    folders |= {name: opt.folder / name for name in ("models", "training_states", "visualization")}
    values = _without_none(opt.plain())
    values["path"] |= {name: str(folder) for name, folder in folders.items()}
    for key, dataset in values["datasets"].items():
        dataset["phase"] = key.split("_")[0]
    return values | {"is_train": opt.is_train, "dist": False, "rank": 0, "world_size": 1}


def _without_none(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _without_none(value) for key, value in values.items() if value is not None}
    return values


class Bridge(BaseModel):
    """Mixed in before a BasicSR model class.

    Attributes:
        broken_gradient: whether an optimizer's step was left out because its gradient was not finite.
    """

    broken_gradient = False

    def get_optimizer(
        self, optim_type: str, params: Any, lr: float | None = None, **kwargs: Any
    ) -> torch.optim.Optimizer:
        """Build any torch.optim class; before each of its steps gradients are averaged over processes and clipped."""
        options = OptimizerOptions(type=optim_type, lr=lr, **kwargs)
        optimizer = build_optimizer(params, options, "train.optim_*")
        optimizer.register_step_pre_hook(self._before_step)
        return optimizer

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        distributed.average_gradients(params)
        gradients = [p.grad for p in params if p.grad is not None]
        norm = gradient_norm(gradients)
        if not bool(torch.isfinite(norm)):  # without gradients, the optimizer leaves all as it is
            self.broken_gradient = True
            optimizer.zero_grad(set_to_none=True)
        elif limit := self.opt["train"].get("grad_clip"):
            clip_gradients(gradients, norm, limit)

    def setup_schedulers(self) -> None:
        """Make one schedule for each optimizer, warm-up included."""
        opt = self.opt["train"]
        options = SchedulerOptions(**opt["scheduler"]) if opt.get("scheduler") else None
        self.schedulers = [Schedule(o, options, opt.get("warmup_iter", -1)) for o in self.optimizers]
        for schedule in self.schedulers:
            schedule.try_out(opt["total_iter"])

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the rates of an iteration."""
        for schedule in self.schedulers:
            schedule.advance(current_iter)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move a network, unwrapped: gradients are averaged before each optimizer step instead."""
        net = net.to(self.device)
        if self.opt["train"].get("channels_last"):
            use_channels_last(net)
        return net

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Read weights as data; refuse a file that does not fit, with its keys named."""
        load_weights(net, load_path, param_key, strict)

    def print_network(self, net: nn.Module) -> None:
        """Print nothing: `describe` says it."""

    def model_ema(self, decay: float = 0.999) -> None:
        """Average the parameters as BasicSR does, and copy the buffers."""
        super().model_ema(decay)
        for mine, theirs in zip(self.net_g_ema.buffers(), self.net_g.buffers(), strict=True):
            mine.data.copy_(theirs.data)


class BridgedModel:
    """A BasicSR model with the methods that a trainer asks of `DistillModel`, and its own training step.

    Args:
        opt: validated options; not changed.

    Raises:
        UserError: an option that BasicSR's training step cannot honor, or a network or weights at fault.
    """

    def __init__(self, opt: Options) -> None:
        options, name = opt.train, opt.model_type
        assert options is not None
        if options.accumulation > 1:
            raise UserError(f"train.accumulation: model_type {name} of BasicSR does not sum gradients over batches")
        if options.amp == "fp16":
            raise UserError(f"train.amp: model_type {name} of BasicSR has no gradient scaler; use bf16")
        self.device, self.amp, self._name = pick_device(opt.num_gpu), options.amp, name
        self.teacher = None  # BasicSR does not distill
        values = basicsr_options(opt) | {"num_gpu": int(self.device.type != "cpu")}
        base = lookup("model", name)
        self._reads_pairs = base.feed_data is SRModel.feed_data  # others make the LR themselves, or read what they like
        self._compares = is_basicsr(base.optimize_parameters)
        try:
            self.model = type(name, (Bridge, base), {"__doc__": base.__doc__})(values)
        except UserError:
            raise
        except Exception as error:
            raise self._refusal(error, name) from error
        self._passing = PassingBuffers(self._modules())
        if "cri_gan" in base.optimize_parameters.__code__.co_names and not hasattr(self.model, "cri_gan"):
            raise UserError(f"model_type {name}: needs the adversarial loss, train.gan_opt, which is missing")
        if options.compile:
            self.model.net_g.compile()

    def _refusal(self, error: Exception, name: str) -> UserError:
        """Say why BasicSR cannot build the model."""
        if isinstance(error, KeyError):
            return UserError(f"model_type {name}: needs the option {error.args[0]}, which is missing")
        if isinstance(error, OSError):
            return UserError(f"model_type {name}: {error.filename}: {error.strerror}; check the path")
        if self.device.type == "cpu" and re.search("CUDA|NVIDIA", str(error)):
            return UserError(f"model_type {name}: BasicSR's class works on a CUDA device only, and there is none")
        if isinstance(error, TypeError | ValueError | AttributeError | NotImplementedError):
            return UserError(f"model_type {name}: BasicSR cannot build it from these options: {error!r}")
        return ProgramFault.of(error, f"model_type {name}: ")

    def step(self, batch: Batch, iteration: int) -> None:
        """Take BasicSR's own step.

        Raises:
            UserError: the batch holds no images, the network makes none, or the ground truth is of another shape than
                the output: BasicSR's losses would compare every image with every other.
        """
        self.model.update_learning_rate(iteration)
        self.model.feed_data(self.checked(batch))
        if self._compares:
            vars(self.model).pop("output", None)  # of the step before
        try:
            with autocast(self.device, self.amp):
                self.model.optimize_parameters(iteration)
        except Exception:  # of shapes that do not fit, mostly
            self._check_output()
            raise
        self._check_output()

    def _check_output(self) -> None:
        self._check_alike(getattr(self.model, "output", None), getattr(self.model, "gt", None))

    def try_forward(self, sample: Batch) -> None:
        """Run the generator on a sample, without a trace, where BasicSR would compare what it makes with the truth.

        What else fails in it is left for the first step to tell.

        Raises:
            UserError: the sample holds no images, or ground truth of another shape than the output.
        """
        batch, net = self.checked(to_device(sample, self.device)), self.model.net_g
        if not (self._reads_pairs and self._compares):
            return
        eager = torch.compiler.set_stance("force_eager")
        with torch.no_grad(), undisturbed(net), fork_rng(batch["lq"]), autocast(self.device, self.amp), eager:
            try:
                sr = net(batch["lq"])
            except Exception:
                return
        self._check_alike(sr, batch["gt"])

    def _check_alike(self, sr: Any, gt: Any) -> None:
        if not self._compares or sr is None or not isinstance(gt, torch.Tensor):
            return
        if not isinstance(sr, torch.Tensor):
            raise UserError(
                f"network_g {type(self.model.net_g).__name__} returns a {type(sr).__name__}, but model_type "
                f"{self._name} needs a tensor of images: take a network that returns one"
            )
        if sr.shape != gt.shape:
            raise unlike(sr, gt)

    def checked(self, batch: Batch) -> Batch:
        """Return a batch as BasicSR's models read it: the one frame that a window restores is an image.

        Raises:
            UserError: it holds no images.
        """
        if not self._reads_pairs:
            return batch
        batch = check_batch(batch)
        lq, gt = batch["lq"], batch["gt"]
        if lq.dim() == gt.dim() == 5 and lq.shape[1] > 1 and gt.shape[1] == 1:
            batch["gt"] = gt.squeeze(1)
        return batch

    def losses(self) -> dict[str, float]:
        """Return what BasicSR logs of the last step; some models leave tensors there.

        Raises:
            UserError: it is no number.
        """
        figures: dict[str, float] = {}
        for name, value in getattr(self.model, "log_dict", {}).items():
            try:
                figures[name] = float(value)
            except (TypeError, ValueError, RuntimeError):
                raise UserError(f"model_type {self._name}: its log_dict['{name}'] is no number; log its mean") from None
        return figures

    def _modules(self) -> dict[str, nn.Module]:
        """List the networks, and what else of the model is trained, such as a user's adapters."""
        trained = {id(p) for o in self.model.optimizers for group in o.param_groups for p in group["params"]}
        return {
            name: part
            for name, part in vars(self.model).items()
            if isinstance(part, nn.Module)
            and (name.startswith("net_") or any(id(p) in trained for p in part.parameters()))
        }

    def describe(self) -> str:
        """List each network with its size."""
        return "\n".join(
            f"{k}: {type(n).__name__}, {count_parameters(n):,} parameters" for k, n in self._modules().items()
        )

    def teacher_names(self) -> set[str]:
        """Return nothing: BasicSR's models read no stored teacher."""
        return set()

    def modules(self) -> list[nn.Module]:
        """Return every network of the model, averages included, and what else is trained."""
        return list(self._modules().values())

    def rates(self) -> list[float]:
        """Return the learning rates of the first optimizer, as BasicSR reports them."""
        return self.model.get_current_learning_rate()

    def state(self) -> dict[str, Any]:
        """Copy networks, which parameters are frozen, optimizers, schedules and what the model carries along."""
        networks = self._modules()
        frozen = {k: [n for n, p in net.named_parameters() if not p.requires_grad] for k, net in networks.items()}
        carried = {k: getattr(self.model, k) for k in _CARRIED if hasattr(self.model, k)}
        state = {
            "networks": {k: net.state_dict() for k, net in networks.items()},
            "frozen": frozen,
            "optimizers": [optimizer_state(o, networks) for o in self.model.optimizers],
            "schedulers": [s.state_dict() for s in self.model.schedulers],
            "buffers": self._passing.state(),
            "carried": {k: dict(v) if isinstance(v, Mapping) else v for k, v in carried.items()},
        }
        return cpu_copy(state)

    def misfits(self, state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield in what a `state` is one of other networks: the option's key, and a sentence."""
        networks = state.get("networks")
        for name, net in self._modules().items():
            saved = networks.get(name) if isinstance(networks, Mapping) else None
            for fault in misfits(net, saved if isinstance(saved, Mapping) else {}):
                key = f"network_{name.split('_')[1]}" if name.startswith("net_") else "model_type"
                yield key, f"the state of {name} {fault}"

    def load_state(self, state: Mapping[str, Any], schedule_anew: int = 0) -> None:
        """Resume from `state`; `schedule_anew` as of `DistillModel`.

        Raises:
            UserError: it belongs to other networks.
        """
        networks = self._modules()
        try:
            for name, net in networks.items():
                net.load_state_dict(state["networks"][name])
                for key, param in net.named_parameters():
                    param.requires_grad_(key not in state["frozen"][name])
            self._passing.load_state(state.get("buffers", {}))  # earlier versions have none
            for optimizer, saved in zip(self.model.optimizers, state["optimizers"], strict=True):
                load_optimizer(optimizer, saved, networks)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the training state belongs to other networks: {reason}") from None
        for schedule, saved in zip(self.model.schedulers, state["schedulers"], strict=True):
            schedule.advance_to(schedule_anew) if schedule_anew else schedule.load_state_dict(saved)
        for name, value in state["carried"].items():
            setattr(self.model, name, value.to(self.device) if isinstance(value, torch.Tensor) else value)

    def network_files(self) -> dict[str, dict[str, Any]]:
        """Return each trained network as BasicSR writes it; an average is its network's `params_ema`."""
        files: dict[str, dict[str, Any]] = {}
        for name, net in self._modules().items():
            if not name.startswith("net_"):
                continue
            key = "params_ema" if name.endswith("_ema") else "params"
            files.setdefault(name.removesuffix("_ema"), {})[key] = cpu_copy(net.state_dict())
        return files

    def inference_network(self) -> nn.Module:
        """Return the averaged generator where there is one, else the generator."""
        return getattr(self.model, "net_g_ema", self.model.net_g)


class BridgedTrainer(Trainer):
    """Trains one of BasicSR's models: the loop is ours, the step is BasicSR's."""

    model: BridgedModel  # type: ignore[assignment]

    def build_model(self, sample: Batch) -> BridgedModel:  # type: ignore[override]
        """Build what is trained, and try its forward pass; `try_step` tries the whole step."""
        self.sample, model = sample, BridgedModel(self.opt)
        model.try_forward(sample)
        return model

    def try_step(self) -> None:
        """Take BasicSR's first step on a batch of one, which changes the networks: for a trainer that will not train.

        Raises:
            UserError: the step fails.
        """
        try:
            self.model.step(to_device(self.sample, self.device), 1)
        except UserError:
            raise
        except Exception as error:
            raise ProgramFault.of(error, f"model_type {self.opt.model_type} fails in its first step: ") from error

    def step(self, iteration: int) -> None:
        """Draw a batch and take BasicSR's own step.

        Raises:
            NonFiniteError: one of its losses or gradients is NaN or infinite.
        """
        self._draw()
        self.model.step(self.batch, iteration)
        self.check_finite(iteration)

    def check_finite(self, iteration: int) -> None:
        """Raise NonFiniteError where a loss or gradient of the last step was not finite."""
        names = [name for name, value in self.model.losses().items() if not math.isfinite(value)]
        stop_if_nonfinite(iteration, names or ["grad_norm"] * self.model.model.broken_gradient, self.batch)

    def figures(self) -> dict[str, float]:
        """Return the losses of the last step, averaged over processes."""
        return distributed.mean_values(self.model.losses())
