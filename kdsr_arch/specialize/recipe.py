"""The option file by which the student is taught: an ordinary one, to be looked at and changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from kdsr_arch.io import write_bytes

NAME = "specialize"
VALIDATIONS = 10  # in a training
PATCH = 32  # side of a crop in LR pixels
_LEAST_PATCH = 8


_TEXT = """\
# A student taught on the frames that it will upscale; the ground truth is what the teacher made of them.
# kdsr train -opt {folder}/options/train.yml trains it alone; the same kdsr specialize goes on with what is changed.
name: {name}
model_type: ImageDistillModel
scale: {scale}
num_gpu: {num_gpu}
manual_seed: {seed}

datasets:
  train:
    type: MixDataset
    datasets:
{parts}
    weights: {weights}
    gt_size: {gt_size}
    use_hflip: true
    use_rot: true
    cache_gb: 0.5
    num_worker_per_gpu: 1
    batch_size_per_gpu: 8
    dataset_enlarge_ratio: 100
  val: # {truth}: held-out frames against the teacher's, and reduced once more against themselves
    name: held_out
    type: ImagePairDataset
    dataroot_lq: {val_lq}
    dataroot_gt: {val_gt}

network_g: {network}

path:
  pretrain_network_g: {start}

train:
  total_iter: {total}
  warmup_iter: {warmup}
  ema_decay: 0.998
  optim_g: {{type: Adam, lr: 3e-3, betas: [0.9, 0.99]}}
  scheduler: {{type: CosineAnnealingRestartLR, periods: [{total}], restart_weights: [1], eta_min: 1e-6}}
  pixel_opt: {{type: L1Loss}}{term}
  patience: 4
  channels_last: true

val:
  val_freq: {frequency}
  pbar: false
  metrics:
    psnr: {{type: calculate_psnr, crop_border: {scale}, test_y_channel: true}}

logger:
  print_freq: {shown}
  save_checkpoint_freq: {frequency}
  save_checkpoint_minutes: 2
  keep_last: 1
"""


@dataclass(frozen=True)
class Teaching:
    """How a student is taught.

    Attributes:
        iterations: at most.
        zoom_share: of the crops, from frames reduced once more.
        fft_weight: of the L1 of the Fourier transform beside the L1.
        seed: of everything random.
        num_gpu: as in option files: 0 for the CPU.
    """

    iterations: int
    zoom_share: float = 0.0
    fft_weight: float = 0.0
    seed: int = 0
    num_gpu: int | str = "auto"


def patch_of(least: int, scale: int, zoom_share: float) -> int:
    """Choose the side of a crop in LR pixels; zoom-out pairs are smaller than their frames by the scale.

    Args:
        least: the smallest side of the frames.
        scale: H / h.
        zoom_share: of the crops, from such pairs.

    Raises:
        UserError: the frames are too small.
    """
    needed = _LEAST_PATCH * (scale if zoom_share else 1)
    if least < needed:
        share = " with --zoom-share" if zoom_share else ""
        raise UserError(f"a side of {least} pixels is too small to teach on{share}: {needed} are needed")
    return min(PATCH, least // (scale if zoom_share else 1))


def write_options(
    path: Path, root: Path, network: Mapping[str, Any], scale: int, patch: int, teaching: Teaching, zoom: bool
) -> Path:
    """Write the option file, unless there is one, which someone may have changed.

    Args:
        path: the file.
        root: the folder of the frames.
        network: the student, as in an option file.
        scale: H / h.
        patch: side of a crop in LR pixels.
        teaching: how long and by what.
        zoom: whether the held-out frames are large enough to be reduced once more.
    """
    if not path.is_file():
        write_bytes(path, options_text(root, network, scale, patch, teaching, zoom).encode())
    return path


def options_text(root: Path, network: Mapping[str, Any], scale: int, patch: int, teaching: Teaching, zoom: bool) -> str:
    """Return the option file as YAML."""

    def place(*parts: str) -> str:
        return json.dumps(str(root.absolute().joinpath(*parts)))

    total, frequency = teaching.iterations, max(teaching.iterations // VALIDATIONS, min(teaching.iterations, 20))
    pairs = f"{{type: ImagePairDataset, dataroot_lq: {place('frames', 'lq')}, "
    pairs += f"dataroot_gt: {place('frames', 'teacher')}, crop_weights: {place('frames', 'difference')}}}"
    own = f"{{type: ImagePairDataset, dataroot_gt: {place('frames', 'lq')}}} # the frames reduced once more"
    share = teaching.zoom_share
    parts = [f"      - {pairs}", *([f"      - {own}"] if share else [])]
    weights = f"[{1 - share:g}, {share:g}]" if share else "[1]"
    truth = "both" if zoom else "teacher"
    folders = [place("held_out", side, *([] if zoom else ["teacher"])) for side in ("lq", "gt")]
    term = "\n  distill_opt:\n    frequencies: {type: FFTLoss, student: output, teacher: gt, loss_weight: "
    term = f"{term}{teaching.fft_weight:g}}}" if teaching.fft_weight else ""
    return _TEXT.format(
        folder=root.name, name=NAME, scale=scale, num_gpu=teaching.num_gpu, seed=teaching.seed, parts="\n".join(parts),
        weights=weights, gt_size=patch * scale, truth=truth, val_lq=folders[0], val_gt=folders[1],
        network=json.dumps(dict(network)), start=place("start.pth"), total=total, term=term, frequency=frequency,
        warmup=min(100, max(total // 10, 1)), shown=min(100, frequency),
    )  # fmt: skip
