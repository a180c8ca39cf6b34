"""Training options: `train` with its optimizers, schedule, losses, distillation terms and stages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from kdsr_arch.errors import nearest
from kdsr_arch.options.section import (
    Component,
    Count,
    Fault,
    Float,
    Fraction,
    Int,
    Names,
    OpenSection,
    Positive,
    PositiveFloat,
    Section,
    Weight,
    only_with,
    option,
)

Amp = Literal["no", "bf16", "fp16"]
DATA = ("lq", "gt")
"""Names on the teacher's side of a term that stand for the batch itself, which needs no teacher."""


class OptimizerOptions(Component):
    """`optim_g` and, for models with more networks, `optim_d`, ...: a torch.optim class and its keywords."""

    type: str = Field(description="An optimizer of torch.optim: Adam, AdamW, SGD, ...; its keywords stand beside it.")
    lr: Weight | None = option(None, "Learning rate; that of the schedule's start, after warm-up.")
    weight_decay: Weight | None = option(None, "Weight decay of the optimizer.")
    betas: list[Fraction] | None = option(
        None,
        "Adam's two decay rates, each at least 0 and below 1.",
        min_length=2,
        max_length=2,
    )


class SchedulerOptions(Component):
    """A learning-rate schedule and its keywords."""

    type: str = Field(
        description="MultiStepLR, CosineAnnealingRestartLR (BasicSR's), or one of torch.optim.lr_scheduler by name."
    )
    milestones: list[Count] | None = option(None, "MultiStepLR: iterations at which the rate is multiplied by gamma.")
    gamma: PositiveFloat | None = option(None, "Factor at each milestone (or step).")
    periods: list[Positive] | None = option(
        None, "CosineAnnealingRestartLR: length of each cosine period in iterations; they must reach total_iter."
    )
    restart_weights: list[Weight] | None = option(None, "Factor on the rate in each period; as many as periods.")
    eta_min: Weight | None = option(None, "Lowest learning rate of a cosine schedule.")

    def faults(self) -> Iterator[Fault]:
        """Refuse lists of different lengths and milestones that do not rise."""
        for key in ("periods", "restarts"):
            entries, weights = getattr(self, key, None), self.restart_weights
            if isinstance(entries, list) and len(entries) != len([1] if weights is None else weights):
                count = "no restart_weights" if weights is None else f"{len(weights)} restart_weights"
                yield key, f"has {len(entries)} entries, but there are {count}"
        if self.milestones and self.milestones != sorted(self.milestones):
            yield "milestones", "must rise"


class LossOptions(Component):
    """A loss of BasicSR's registry and its keywords."""

    type: str = Field(description="A registered loss: L1Loss, CharbonnierLoss, MSELoss, PerceptualLoss, GANLoss, ...")


class WeightOptions(Section):
    """A weight that follows the gradients, the iterations, or both: its factors are multiplied."""

    constant: Weight | None = option(None, "A constant factor.")
    schedule: list[list[Weight]] | None = option(
        None, "[[iteration, weight], ...] in rising iterations; linear between them, constant outside."
    )
    balance: PositiveFloat | None = option(
        None, "Ratio r: the term's gradient on the student is kept at r times the pixel loss's."
    )
    measurements: Positive | None = option(None, "How many measurements the balance is taken over. Default: 10.")

    def faults(self) -> Iterator[Fault]:
        """Refuse a schedule that is not a list of pairs in rising order."""
        points = self.schedule
        if points is not None and (not points or any(len(point) != 2 for point in points)):
            yield "schedule", "must be a list of [iteration, weight] pairs"
        elif points and any(later[0] <= earlier[0] for earlier, later in itertools.pairwise(points)):
            yield "schedule", "must have rising iterations"


def _weight_form(value: Any) -> str | None:
    """Choose the form first, so that a fault is reported once, for that form."""
    if isinstance(value, dict | Section):
        keys = value if isinstance(value, dict) else value.model_fields_set
        return "<mapping>" if {"constant", "schedule", "balance"} & set(keys) else None
    return "<number>" if isinstance(value, int | float) and not isinstance(value, bool) else None


LossWeight = Annotated[
    Annotated[Weight, Tag("<number>")] | Annotated[WeightOptions, Tag("<mapping>")],
    Discriminator(
        _weight_form,
        custom_error_type="form",
        custom_error_message="must be a number, {schedule: [[iteration, weight], ...]} or {balance: ratio}",
    ),
]


def is_balanced(weight: float | WeightOptions | None) -> bool:
    """Tell whether a weight follows the gradients."""
    return isinstance(weight, WeightOptions) and weight.balance is not None


def _is_zero(weight: float | WeightOptions | None) -> bool:
    """Tell whether a weight is 0 for ever; a schedule is taken to mean something."""
    if isinstance(weight, WeightOptions):
        return weight.constant == 0
    return weight == 0


class PixelOptions(LossOptions):
    """The loss between the student's output and the ground truth."""

    own: ClassVar[frozenset[str]] = frozenset({"type", "loss_weight"})

    loss_weight: LossWeight | None = option(
        None, "A number or, for our models, {schedule: [[iteration, weight], ...]}. Default: 1."
    )


class AdapterOptions(Section):
    """Train-only layers on the student's side of a term."""

    type: Literal["conv1x1", "conv3x3", "conv5x5", "conv7x7", "conv", "resize"] = Field(
        description="'conv1x1', 'conv3x3', ... (channels, and sizes where needed), 'conv' (with kernel_size), or "
        "'resize' (sizes only)."
    )
    kernel_size: Positive | None = option(None, "Side of the kernel of type 'conv'; odd.")
    bias: bool | None = option(None, "Whether the convolution has a bias. Default: true.")
    resize: Literal["auto", "bilinear", "area", "nearest", "none"] | None = option(
        None, "How sizes are aligned. Default: 'auto', where they differ."
    )

    def faults(self) -> Iterator[Fault]:
        """Refuse a kernel without a middle."""
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            yield "kernel_size", f"must be odd, got {self.kernel_size}"


Adapter = Annotated[
    Annotated[Literal["auto", "none"], Tag("<word>")] | Annotated[AdapterOptions, Tag("<mapping>")],
    Discriminator(
        lambda v: "<word>" if isinstance(v, str) else "<mapping>" if isinstance(v, dict | Section) else None,
        custom_error_type="form",
        custom_error_message="must be 'auto', 'none' or {type: conv1x1, ...}",
    ),
]


class TermOptions(Component):
    """One distillation term: a loss between what is tapped in the student and in the teacher."""

    own: ClassVar[frozenset[str]] = frozenset(
        {"type", "at", "student", "teacher", "layer_weights", "loss_weight", "adapter", "downsample"}
    )

    type: str = Field(description="A registered loss, ours or BasicSR's; its keywords stand beside the keys below.")
    at: Names | None = option(
        None, "The tap, where student and teacher share it: a module path, an alias such as f_sr, or a list."
    )
    student: Names | None = option(None, "The student's tap: a module path, an alias such as f_sr or f_lr, or a list.")
    teacher: Names | None = option(
        None,
        "The teacher's tap, likewise; a list beside one tap of the student compares that one with each. Without any "
        "tap, the term compares the outputs.",
    )
    layer_weights: list[Weight] | None = option(None, "A weight for each pair of taps when they are lists.")
    loss_weight: LossWeight = option(
        1.0,
        "The term's weight: a number, {schedule: [[iteration, weight], ...]} (linear between), or {balance: r, "
        "measurements: n} (the term's gradient on the student is kept at r times the pixel loss's).",
    )
    adapter: Adapter = option(
        "auto",
        "Train-only layers that fit the student's feature to the teacher's: 'auto' (where channels or sizes differ), "
        "'none', or {type: conv1x1, ...}. Never part of the student's file.",
    )
    downsample: Positive = option(
        1, "Average both taps over so many pixels a side, before adapters and loss: k^2 times less work at k."
    )

    def faults(self) -> Iterator[Fault]:
        """Refuse taps that exclude each other or differ in number."""
        if self.at is not None and (self.student is not None or self.teacher is not None):
            yield "at", "stands for both taps, so `student` and `teacher` cannot be given beside it"
        sides = (self.student, self.teacher) if self.at is None else (self.at,)
        counts = [len(side) if isinstance(side, list) else 1 for side in sides if side is not None]
        if len(set(counts)) > 1 and counts[0] > 1:
            yield "teacher", f"must tap as many layers as student does ({counts[0]})"
        elif counts and self.layer_weights is not None and len(self.layer_weights) != max(counts):
            yield "layer_weights", f"has {len(self.layer_weights)} entries for {max(counts)} taps"


class StageOptions(Section):
    """A stretch of the training with terms and modules of its own."""

    iters: Positive = Field(description="Length of the stage in iterations; the stages must sum to total_iter.")
    terms: list[str] | None = option(None, "Names of the active terms ('pixel' for pixel_opt). Default: all of them.")
    freeze: list[str] = Field(
        default_factory=list, description="Module paths of the student, and names of terms, that are not trained."
    )
    gt_size: Positive | None = option(None, "Side of the HR crop in this stage. Default: the data's.")
    batch_size_per_gpu: Positive | None = option(None, "Samples of a batch in this stage. Default: the data's.")


class TrainOptions(OpenSection):
    """Everything about learning. Other `*_opt` and `optim_*` keys are taken where the model type reads them."""

    total_iter: Positive = Field(description="Number of iterations.")
    warmup_iter: Annotated[Int, Field(ge=-1)] = option(
        -1, "Iterations over which the learning rate rises linearly from 0; -1: none."
    )
    ema_decay: Fraction = option(0, "Decay of the exponential moving average of the student's weights; 0: none.")
    optim_g: OptimizerOptions = Field(description="The student's optimizer.")
    scheduler: SchedulerOptions | None = option(None, "Learning-rate schedule. Default: constant.")
    pixel_opt: PixelOptions | None = option(None, "The loss between the student's output and the ground truth.")
    distill_opt: dict[str, TermOptions] = Field(
        default_factory=dict, description="Distillation terms by name; the name is what logs and stages call them."
    )
    stages: list[StageOptions] = Field(
        default_factory=list, description="Stages of the training, in order. Default: one."
    )
    patience: Positive | None = option(
        None,
        "Stop once the first metric on the first validation set with a ground truth has not become better in so many "
        "validations; net_g_best is then from before them. Default: train to total_iter.",
    )
    amp: Amp = option("no", "Automatic mixed precision: 'no', 'bf16', 'fp16' (with a gradient scaler).")
    channels_last: bool = option(False, "Keep images and weights in channels-last memory order; mostly faster.")
    compile: bool = option(False, "Run the student through torch.compile.")
    cuda_graph: bool = option(
        False,
        "Record the training step as one CUDA graph, which small networks need to keep a GPU busy. Never changes "
        "results; not for several processes, amp fp16 or accumulation.",
    )
    grad_clip: PositiveFloat | None = option(None, "Largest norm of the gradient; longer ones are cut. Default: none.")
    accumulation: Positive = option(1, "Batches whose gradients are summed before each optimizer step.")
    ratio_freq: Positive = option(
        100, "Every so many iterations, each term's gradient on the student is measured against the pixel loss's."
    )

    perceptual_opt: LossOptions | None = only_with("BasicSR's SR and GAN models", "Perceptual (and style) loss.")
    gan_opt: LossOptions | None = only_with("BasicSR's GAN models", "Adversarial loss.")
    ldl_opt: LossOptions | None = only_with("SRGANModel and its kin", "Locally discriminative loss.")
    feature_matching_opt: LossOptions | None = only_with("HiFaceGANModel", "Loss on the discriminator's features.")
    optim_d: OptimizerOptions | None = only_with("BasicSR's GAN models", "The discriminator's optimizer.")
    net_d_iters: Positive | None = only_with("BasicSR's GAN models", "Discriminator steps for one generator step.")
    net_d_init_iters: Count | None = only_with("BasicSR's GAN models", "Iterations that train the discriminator alone.")
    tsa_iter: Positive | None = only_with("EDVRModel", "Iterations that train EDVR's fusion module alone.")
    dcn_lr_mul: PositiveFloat | None = only_with("EDVRModel", "Learning-rate factor of deformable convolutions.")
    fix_flow: Count | None = only_with(
        "VideoRecurrentModel", "Iterations over which flow network and extractor stay fixed."
    )
    flow_lr_mul: Float | None = only_with("VideoRecurrentModel", "Learning-rate factor of the flow network.")
    lr_flow: Weight | None = only_with("VideoRecurrentGANModel", "Learning rate of the flow network.")
    r1_reg_weight: Weight | None = only_with("StyleGAN2Model", "Weight of the R1 penalty.")
    path_reg_weight: Weight | None = only_with("StyleGAN2Model", "Weight of the path-length penalty.")
    path_batch_shrink: Positive | None = only_with(
        "StyleGAN2Model", "Factor by which the path-length batch is smaller."
    )
    net_g_reg_every: Positive | None = only_with("StyleGAN2Model", "Iterations between generator penalties.")
    net_d_reg_every: Positive | None = only_with("StyleGAN2Model", "Iterations between discriminator penalties.")
    mixing_prob: Float | None = only_with("StyleGAN2Model", "Probability of style mixing.")

    def faults(self) -> Iterator[Fault]:
        """Refuse options without any loss, and a schedule, stages or weights that do not fit the rest."""
        losses = {k: v for k, v in {**vars(self), **(self.model_extra or {})}.items() if k.endswith("_opt") and v}
        untaught = self.pixel_opt is not None and _is_zero(self.pixel_opt.loss_weight)
        if not losses:
            yield "pixel_opt", "is required, but missing: there is no loss at all"
        others = [k for k in losses if k not in ("pixel_opt", "distill_opt")]
        if untaught and not others and all(_is_zero(term.loss_weight) for term in self.distill_opt.values()):
            yield "pixel_opt.loss_weight", "is 0, and no other loss has a weight: nothing would be trained"
        if self.cuda_graph and (self.amp == "fp16" or self.accumulation > 1):
            yield "cuda_graph", "records steps of one batch in 'no' or 'bf16': amp fp16 and accumulation exclude it"
        periods = self.scheduler.periods if self.scheduler else None
        if periods and self.total_iter and sum(periods) < self.total_iter - 1:
            yield "scheduler.periods", f"end at iteration {sum(periods)}, before total_iter ({self.total_iter})"
        lengths = [stage.iters for stage in self.stages]
        names = [*self.distill_opt, *([] if self.lacks("pixel_opt") else ["pixel"])]
        if lengths and all(lengths) and self.total_iter and sum(lengths) != self.total_iter:
            yield "stages", f"sum to {sum(lengths)} iterations, but total_iter is {self.total_iter}"
        for position, stage in enumerate(self.stages):
            for wanted in stage.terms or ():
                if wanted not in names:
                    yield f"stages.{position}.terms", f"there is no term '{wanted}'{nearest(wanted, names)}"
        if self.pixel_opt and is_balanced(self.pixel_opt.loss_weight):
            yield "pixel_opt.loss_weight", "cannot be balanced: terms are balanced against the pixel loss"
        for name, term in self.distill_opt.items():
            if is_balanced(term.loss_weight) and (untaught or self.lacks("pixel_opt")):
                lack = "train.pixel_opt.loss_weight is 0" if untaught else "there is no train.pixel_opt"
                yield f"distill_opt.{name}.loss_weight", f"is balanced against the pixel loss, but {lack}"
