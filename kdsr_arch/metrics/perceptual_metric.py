"""Perceptual metrics of the package pyiqa: LPIPS, DISTS, NIQE and some hundred others, under their names there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError, first_line, nearest
from kdsr_arch.metrics.psnr_metric import prepare
from kdsr_arch.registry import METRIC_REGISTRY, names

# what downloading or reading weights may end in: no network (URLError is an OSError), a broken or foreign file
_NO_WEIGHTS = (OSError, RuntimeError, EOFError, KeyError)


@METRIC_REGISTRY.register()
def calculate_pyiqa(
    img: NDArray,
    img2: NDArray | None = None,
    metric: str = "lpips",
    crop_border: int = 0,
    weights: str | None = None,
    device: str | None = None,
    **keywords: Any,
) -> float:
    """Compute a metric of pyiqa by its name; metrics without a reference ignore ``img2``.

    Args:
        img: the result, (H, W, C) uint8 BGR or one channel.
        img2: the ground truth, same shape.
        metric: pyiqa's name: ``lpips``, ``dists``, ``niqe``, ``musiq``, ...
        crop_border: pixels left out at each edge.
        weights: a local file of the metric's weights; absent: pyiqa's own, downloaded on first use.
        device: ``cpu`` or ``cuda``; absent: CUDA where there is one.
        keywords: of pyiqa's ``create_metric``, such as ``net: vgg``.

    Raises:
        UserError: pyiqa is not installed, knows no such metric, or has no weights for it.
    """
    first, second = prepare(img, img if img2 is None else img2, crop_border, False)
    place = str(device or pick_device())
    network = create(metric, place, weights, tuple(sorted(keywords.items())))
    needs_truth = getattr(network, "metric_mode", "FR") == "FR"
    given = [_tensor(first), _tensor(second)] if needs_truth else [_tensor(first)]
    with torch.no_grad():
        return float(network(*(x.to(place) for x in given)))


def lower_is_better(
    metric: str = "lpips",
    crop_border: int = 0,
    weights: str | None = None,
    device: str | None = None,
    **keywords: Any,
) -> bool:
    """Tell which way a metric of pyiqa goes; arguments as of :func:`calculate_pyiqa`."""
    network = create(metric, str(device or pick_device()), weights, tuple(sorted(keywords.items())))
    return bool(getattr(network, "lower_better", False))


@lru_cache(maxsize=8)
def create(metric: str, device: str, weights: str | None, keywords: tuple[tuple[str, Any], ...]) -> Any:
    """Create a metric of pyiqa, once."""
    try:
        import pyiqa
    except ImportError:
        ours = nearest(metric, [name.removeprefix("calculate_") for name in names("metric")])
        raise UserError(f"metric {metric} needs the package pyiqa: pip install 'kdsr[metrics]'{ours}") from None
    known = pyiqa.list_models()
    if metric not in known:
        raise UserError(f"pyiqa has no metric '{metric}'{nearest(metric, known)}; its pyiqa.list_models() lists them")
    more = {**dict(keywords), **({"pretrained_model_path": weights} if weights else {})}
    try:
        return pyiqa.create_metric(metric, device=torch.device(device), **more)
    except TypeError as error:
        raise UserError(f"metric {metric} refuses its options {more}: {error}") from None
    except _NO_WEIGHTS as error:
        where = f"in {weights}" if weights else "here, and downloading them failed"
        raise UserError(
            f"metric {metric}: its weights are not {where} ({first_line(error)[:150]}); download them on a "
            "machine with a network and name the file: weights: FILE"
        ) from None


def _tensor(image: NDArray) -> torch.Tensor:
    """Map (H, W, C) uint8 BGR to (1, 3, H, W) RGB in [0, 1]."""
    color = image[..., ::-1] if image.shape[2] == 3 else np.repeat(image, 3, 2)
    return torch.from_numpy(np.ascontiguousarray(color.transpose(2, 0, 1))).float().div(255)[None]
