"""What a teacher gains by being the mean of several networks, or of eight flips and rotations: its own PSNR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdsr_arch.data.augment import to_tensor
from kdsr_arch.data.store.teacher_store import OUTPUT
from kdsr_arch.distill.teachers import Ensemble, SelfEnsemble, build_teacher
from kdsr_arch.infer.pixels import to_bgr
from kdsr_arch.metrics.psnr_metric import psnr
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.options.schema import Options
from kdsr_arch.precompute.live import LiveTeacher

_IMAGES = 8  # spread over the training data; each is restored by every form of the teacher


@dataclass(frozen=True)
class OwnPsnr:
    """Mean PSNR in dB of each form of the teacher, from its single networks to the whole, on the same images."""

    images: int
    border: int
    forms: Mapping[str, float]

    @property
    def gain(self) -> float:
        """The whole teacher over the best of its single networks."""
        *_, (_, whole) = self.forms.items()
        return whole - max(value for name, value in self.forms.items() if name.startswith("network_"))

    def __str__(self) -> str:
        said = ", ".join(f"{name} {value:.2f}" for name, value in self.forms.items())
        return (
            f"the teacher's own PSNR on {self.images} training images (Y, crop {self.border}): {said} dB; "
            f"{self.gain:+.2f} dB over the best single network"
        )


def forms_of(teacher: nn.Module) -> dict[str, nn.Module]:
    """Return the single networks of a teacher, their mean, and its x8 self-ensemble, as far as it has them."""
    inner = teacher.net if isinstance(teacher, SelfEnsemble) else teacher
    assert isinstance(inner, nn.Module)
    forms = {"network_t": inner}
    if isinstance(inner, Ensemble):
        forms = {f"network_{name}": inner.get_submodule(name).get_submodule("net") for name in inner.names}
        forms["their mean"] = inner
    return forms if teacher is inner else {**forms, "x8 self-ensemble": teacher}


def measure_own_psnr(opt: Options, dataset: Any) -> OwnPsnr | None:
    """Restore a few training images with every form of the teacher; None where it is one network, run once.

    Args:
        opt: options that name a teacher.
        dataset: the opened training data.
    """
    teacher = build_teacher(opt)
    forms = {} if teacher is None else forms_of(teacher)
    if len(forms) < 2:
        return None
    live = {name: LiveTeacher(net, opt, ()) for name, net in forms.items()}
    run = dataset.clip_length if any(net.recurrent for net in live.values()) else 0
    views = dataset.teacher_views(max(net.traits.num_frame for net in live.values()), False, run)
    views = views[:: -(-len(views) // _IMAGES)]
    sums = dict.fromkeys(live, 0.0)
    for view in views:
        low, high = dataset.pairs.read(list(view.frames), list(view.gt), None)
        frames, gt = to_tensor(low, color=dataset.color), to_tensor(high, color=dataset.color)
        for name, net in live.items():
            pairs = zip(*matched_colors(net(frames)[OUTPUT], gt), strict=True)
            values = [psnr(to_bgr(sr), to_bgr(truth), dataset.scale, test_y_channel=True) for sr, truth in pairs]
            sums[name] += sum(values) / len(values)
    return OwnPsnr(len(views), dataset.scale, {name: total / len(views) for name, total in sums.items()})
