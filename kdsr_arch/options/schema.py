"""The schema of option files: every key once, with its type, default and meaning.

It feeds validation, ``kdsr check --explain KEY``, options/schema.json and docs/options.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag

from kdsr_arch.errors import nearest
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.options.schema_train import Amp, TrainOptions
from kdsr_arch.options.section import (
    Component,
    Count,
    Fault,
    Int,
    Names,
    OpenSection,
    PlainName,
    Positive,
    PositiveFloat,
    Section,
    leads_astray,
    only_with,
    option,
)
from kdsr_arch.options.yaml_reader import describe
from kdsr_arch.plugins import PluginFile


class NetworkOptions(Component):
    """A network of the registry and its constructor's keywords."""

    type: str = Field(
        description="A registered network, ours or BasicSR's; its constructor's keywords stand beside it."
    )

    def faults(self) -> Iterator[Fault]:
        """Refuse a window of an even number of frames."""
        frames = self.keywords().get("num_frame")
        if isinstance(frames, int | float) and not isinstance(frames, bool) and (frames < 1 or frames % 2 != 1):
            yield "num_frame", f"must be odd and at least 1, got {frames:g}"


class TeacherOptions(Section):
    """How the frozen teacher runs."""

    amp: Amp = option("no", "Precision of the teacher's forward pass: 'no', 'bf16', 'fp16'.")
    compile: bool = option(False, "Run the teacher through torch.compile.")
    self_ensemble: bool = option(
        False,
        "The teacher is the mean over the eight flips and rotations of its input (x8 self-ensemble): better, and eight "
        "times as slow, so best stored with `kdsr cache-teacher`. Only its output can be tapped.",
    )


class Pretrained(NamedTuple):
    """A file of weights, which of them (None: the file itself), and whether its keys must be exactly the network's."""

    path: str
    param_key: str | None
    strict: bool


class PathOptions(OpenSection):
    """Files to start from. `pretrain_network_X`, `param_key_X`, `strict_load_X` go with each `network_X`."""

    pretrain_network_g: str | None = option(
        None, "Weights the student starts from, or that are tested (.pth, .safetensors)."
    )
    param_key_g: str | None = option(
        "params", "Which weights of that file: 'params', 'params_ema'; null: the file itself."
    )
    strict_load_g: bool = option(
        True,
        "Refuse a file whose keys are not exactly the network's. false: take the layers that fit and say which do not: "
        "the student starts from a network of another scale.",
    )
    pretrain_network_t: str | None = option(None, "The teacher's weights (.pth, .safetensors).")
    param_key_t: str | None = option("params", "Which weights of the teacher's file.")
    strict_load_t: bool = option(
        True,
        "Refuse a teacher's file whose keys are not exactly the network's. false: load the layers that fit and list "
        "the others; at least half of the teacher must fit.",
    )
    resume_state: str | None = option(
        None,
        "A training state (.state) to resume from, exactly. Later checkpoints of the experiment are set aside; from a "
        "state of another experiment a new run begins. With --auto_resume it counts only where the experiment "
        "has no state yet.",
    )

    def weights(self, label: str) -> Pretrained | None:
        """Return the weights that `network_LABEL` starts from, if the options name any."""
        path = getattr(self, f"pretrain_network_{label}", None)
        strict = getattr(self, f"strict_load_{label}", None)
        return Pretrained(path, getattr(self, f"param_key_{label}", None), strict is not False) if path else None

    def faults(self) -> Iterator[Fault]:
        """Refuse files of further networks that are not texts."""
        for key, value in (self.model_extra or {}).items():
            if key.startswith("pretrain_network_") and not isinstance(value, str | None):
                yield key, f"must be a text, not {describe(value)}"


class MetricOptions(Component):
    """A metric of the registry and its keywords."""

    own: ClassVar[frozenset[str]] = frozenset({"type", "better"})

    type: str = Field(description="A registered metric: calculate_psnr, calculate_ssim, calculate_niqe, ...")
    better: Literal["higher", "lower"] | None = option(
        None, "Which values are better: 'higher' or 'lower'. Default: as the metric itself says."
    )


class ValOptions(OpenSection):
    """Validation while training, and testing."""

    val_freq: Positive | None = option(None, "Iterations between validations. Default: only at the end.")
    save_img: bool = option(False, "Save the restored images.")
    metrics: dict[str, MetricOptions] | None = option(
        None, "Metrics by a name of your choice; each is printed with its protocol."
    )
    score_teacher: bool = option(
        True, "Before a training begins, score the live teacher on the first validation set, and log it."
    )
    pbar: bool = option(True, "Show a progress bar.")
    suffix: PlainName | None = option(None, "Ending of saved images' names. Default: the experiment's name.")
    tile: Positive | None = option(
        None, "Restore frames in square tiles of this LR size, for little memory. Default: whole frames."
    )
    tile_overlap: Count = option(16, "Overlap of neighboring tiles in LR pixels.")
    speed_size: list[Positive] | None = option(
        [180, 120],
        "In tests, LR width and height at which FLOPs and run time are measured; null: not at all.",
        min_length=2,
        max_length=2,
    )
    skip_first: Count | None = option(None, "Leave so many frames at each clip's start out of the metrics.")
    skip_last: Count | None = option(None, "Leave so many frames at each clip's end out of the metrics.")
    center_frame_only: bool | None = option(None, "Measure each clip's center frame only.")

    def faults(self) -> Iterator[Fault]:
        """Refuse tiles that are not larger than their overlap."""
        if self.tile is not None and self.tile <= self.tile_overlap:
            yield "tile", f"must be larger than tile_overlap ({self.tile_overlap}), got {self.tile}"


class WandbOptions(Section):
    """Weights & Biases; off without a project."""

    project: str | None = option(None, "Project to log to.")
    resume_id: str | None = option(None, "Run to continue. Default: a resumed training continues its own.")


def _best_form(value: Any) -> str | None:
    return "<mapping>" if isinstance(value, dict) else "<number>" if not isinstance(value, str | list) else None


KeepBest = Annotated[
    Annotated[Positive, Tag("<number>")] | Annotated[dict[str, Positive], Tag("<mapping>")],
    Discriminator(
        _best_form,
        custom_error_type="form",
        custom_error_message="must be a number, or {metric: number, ...} with metrics of val.metrics",
    ),
]


class LoggerOptions(Section):
    """What is written while training."""

    print_freq: Positive = option(100, "Iterations between log lines.")
    save_checkpoint_freq: Positive = option(5000, "Iterations between checkpoints.")
    save_checkpoint_minutes: PositiveFloat | None = option(
        None, "Also save once so many minutes have passed since the last checkpoint. Default: never."
    )
    keep_last: Positive | None = option(None, "Keep only this many checkpoints (the best is kept too). Default: all.")
    keep_best: KeepBest | None = option(
        None,
        "Also keep the networks of the best validations, as net_g_best_METRIC_N: how many by the first metric, or "
        "{metric: number, ...}; measured on the first validation set with a ground truth. net_g_best, the best of all "
        "by the first metric, is there in any case.",
    )
    checkpoint_format: Literal["pth", "safetensors"] = option(
        "pth", "Files of networks: 'pth' (BasicSR's) or 'safetensors'; both are read wherever weights are named."
    )
    use_tb_logger: bool = option(False, "Write TensorBoard logs.")
    wandb: WandbOptions | None = option(None, "Weights & Biases logging.")


class DistOptions(Section):
    """Distributed training (with --launcher)."""

    backend: Literal["nccl", "gloo"] = option(
        "nccl", "Between GPUs; on CPUs it always is gloo. gloo lets processes share a GPU."
    )
    port: Int | str | None = option(
        None, "Port of the first process, with --launcher slurm. Default: MASTER_PORT, or one made of the job's number."
    )
    timeout: PositiveFloat = option(
        1800.0,
        "Seconds after which a process gives up waiting for the others. Longer than the slowest item of a validation, "
        "for which all wait.",
    )


def _num_gpu(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"must be 'auto' or a whole number of GPUs (0: CPU), not {describe(value)}")
    return value


def _name(value: Any) -> Any:
    """Check the name, a folder below experiments/: it may have parts, but must not lead out of there."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"must be a text; put it in quotes: '{value}'")
    if isinstance(value, str) and (leads_astray(value) or not value.strip() or not PurePosixPath(value).parts):
        raise ValueError(f"names a folder below experiments/, so it cannot be {value[:80]!r}")
    return value


@dataclass(frozen=True)
class Run:
    """Facts about a run that its option file does not say.

    Attributes:
        is_train: for training rather than for testing.
        root: the folder that experiments/ and results/ stand in.
        source: the option file.
        imports: the files that were imported for it.
    """

    is_train: bool = True
    root: Path = Path()
    source: Path = Path()
    imports: tuple[PluginFile, ...] = ()


class Options(OpenSection):
    """An option file. Other top-level keys are taken where the model type reads them."""

    _run: Run = PrivateAttr(default_factory=Run)

    name: Annotated[str, BeforeValidator(_name)] = Field(
        description="The experiment's name: outputs go to experiments/NAME (training) and results/NAME (testing)."
    )
    model_type: str = Field(
        description="What is trained: ImageDistillModel, VideoDistillModel, or one of BasicSR's "
        "models (SRModel, EDVRModel, ...)."
    )
    scale: Positive | None = option(None, "Upscaling factor; handed to every data set.")
    imports: Names | None = option(
        None,
        "Your own networks, losses, data sets, metrics and models: modules (`my_project.archs`) and files "
        "(`./losses/edge.py`) that register them, looked for beside the option file, then in the project's folder. "
        "docs/plugins.md.",
    )
    needs: str | None = option(
        None, "One sentence that says what to download and run first, shown when data or weights are missing."
    )
    num_gpu: Annotated[int | str, BeforeValidator(_num_gpu)] = option(
        "auto", "GPUs to use: 'auto' (all there are), 0 (CPU), or a number."
    )
    manual_seed: Count = option(0, "Seed of everything random. Same seed, same results, however many workers.")
    deterministic: bool = option(
        False,
        "On a GPU: the same bits again in every run and after every resume, by kernels that always add up in the same "
        "order. Slower; torch warns where it has no such kernel (backward passes of warping, of deformable "
        "convolution).",
    )
    datasets: dict[str, DatasetOptions] = Field(
        description="Data sets: `train`; `val`, `val_2`, ... (while training and in tests); `test`, "
        "`test_1`, ... (tests)."
    )
    network_g: NetworkOptions = Field(description="The network that is trained or tested: the student.")
    sequence: list[dict[str, Any]] | None = option(
        None,
        "Trainings one after the other: each part has a `name` and the options in which it differs from the rest of "
        "the file; mappings are merged (one that names a `type` replaces the other), null takes a key away. Outputs go "
        "to experiments/NAME/PART; --auto_resume passes over finished parts.",
    )
    network_t: NetworkOptions | None = option(
        None,
        "The teacher: a registered network with its weights in path.pretrain_network_t, or {type: spandrel, path: "
        "FILE}, any network that the package spandrel recognizes from its weights.",
    )
    network_t2: NetworkOptions | None = option(
        None,
        "A second teacher. The terms then see the mean of the outputs, or with `teacher: t` and `teacher: t2` each on "
        "its own; `teacher: t2.PATH` taps a module inside it.",
    )
    network_t3: NetworkOptions | None = option(None, "A third teacher, likewise (`t3`).")
    network_d: NetworkOptions | None = only_with("BasicSR's GAN models", "The discriminator.")
    teacher: TeacherOptions = Field(default_factory=TeacherOptions, description="How the teacher runs.")
    path: PathOptions = Field(default_factory=PathOptions, description="Weights and states to start from.")
    train: TrainOptions = option(cast(TrainOptions, None), "Everything about learning. Required to train.")
    val: ValOptions | None = option(None, "Validation and testing. Without it, training does not validate.")
    logger: LoggerOptions = Field(default_factory=LoggerOptions, description="What is written while training.")
    dist_params: DistOptions = Field(default_factory=DistOptions, description="Distributed training.")

    @property
    def is_train(self) -> bool:
        """Whether the options were read for training rather than for testing."""
        return self._run.is_train

    @property
    def source(self) -> Path:
        """The option file."""
        return self._run.source

    @property
    def imported(self) -> tuple[PluginFile, ...]:
        """The files that were imported for the run."""
        return self._run.imports

    @property
    def folder(self) -> Path:
        """Where the run writes: experiments/NAME in training, results/NAME in tests."""
        return self._run.root / ("experiments" if self.is_train else "results") / self.name

    @property
    def networks(self) -> dict[str, NetworkOptions]:
        """Every `network_*`, by its key."""
        values = {**vars(self), **(self.model_extra or {})}
        return {key: value for key, value in values.items() if isinstance(value, NetworkOptions)}

    @property
    def teachers(self) -> dict[str, NetworkOptions]:
        """`network_t`, `network_t2`, ... as far as the option file names them, by their keys."""
        networks = self.networks
        return {key: networks[key] for key in sorted(networks) if re.fullmatch(r"network_t\d*", key)}

    def phase(self, name: str) -> dict[str, DatasetOptions]:
        """Return the data sets of a phase by their keys: for 'val', `val`, `val_2`, ..."""
        return {key: dataset for key, dataset in self.datasets.items() if key.split("_")[0] == name}

    def faults(self) -> Iterator[Fault]:
        """Report what training or testing lacks, and values of different sections that exclude each other."""
        if self.is_train and self.lacks("train"):
            yield "train", "is required to train, but missing"
        yield from self._phase_faults()
        for key, dataset in self.all_datasets():
            if self.scale and dataset.scale not in (None, self.scale):
                yield f"{key}.scale", f"is {dataset.scale}, but `scale` of the whole file is {self.scale}; take it out"
            if self.scale and dataset.gt_size and dataset.gt_size % self.scale:
                yield f"{key}.gt_size", f"must be a multiple of scale ({self.scale}), got {dataset.gt_size}"
        for number, stage in enumerate(self.train.stages if self.train else []):
            if self.scale and stage.gt_size and stage.gt_size % self.scale:
                key = f"train.stages.{number}.gt_size"
                yield key, f"must be a multiple of scale ({self.scale}), got {stage.gt_size}"
        best, metrics = self.logger.keep_best, (self.val.metrics if self.val else None) or {}
        if self.is_train and best is not None and not metrics:
            yield "logger.keep_best", "needs a validation to rank by; give val.metrics"
        waits = self.is_train and self.train is not None and self.train.patience is not None
        if waits and self.datasets and not (metrics and self.phase("val")):
            yield "train.patience", "needs a validation to wait for; give datasets.val and val.metrics"
        for name in best if self.is_train and metrics and isinstance(best, dict) else ():
            if name not in metrics:
                yield f"logger.keep_best.{name}", f"is no metric of val.metrics{nearest(name, metrics)}"

    def all_datasets(self) -> Iterator[tuple[str, DatasetOptions]]:
        """Yield every data set with its dotted key, the parts of mixtures included."""
        for name, dataset in (self.datasets or {}).items():
            yield f"datasets.{name}", dataset
            for position, part in enumerate(dataset.datasets or ()):
                yield f"datasets.{name}.datasets.{position}", part

    def _phase_faults(self) -> Iterator[Fault]:
        datasets = self.datasets
        if datasets is None:  # at fault itself
            return
        for key in datasets:
            if not re.fullmatch(r"(train|val|test)(_\w+)?", key):
                names = nearest(key, ("train", "val", "test"))
                yield f"datasets.{key}", f"must be named train, val, val_2, ..., test, test_1, ...{names}"
            elif self.is_train and key.startswith("test"):
                yield f"datasets.{key}", "is for testing; name it val (or val_2, ...) to validate while training"
        if self.is_train and "train" not in datasets:
            yield "datasets.train", "is required to train, but missing"
        if not self.is_train and not any(key.startswith(("val", "test")) for key in datasets):
            yield "datasets.test", "is required to test, but missing"
        training = datasets.get("train")
        if self.is_train and training is not None and training.lacks("batch_size_per_gpu"):
            yield "datasets.train.batch_size_per_gpu", "is required, but missing"
