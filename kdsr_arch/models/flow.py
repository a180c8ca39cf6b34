"""Whether stored optical flow is what a network would have estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdsr_arch.data.flow_store import FlowStore
from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import traits_of


def check_flow_cache(opt: Mapping[str, Any], student: nn.Module) -> None:
    """Compares ``datasets.train.flow_cache``, where it is named, with the student that is to read it.

    Raises:
        UserError: the student takes no flow, or that of another method or window.
    """
    path = ((opt.get("datasets") or {}).get("train") or {}).get("flow_cache")
    if not path:
        return
    traits, info = traits_of(student, opt["scale"]), FlowStore(path).info
    name = type(student).__name__
    if not traits.flow:
        raise UserError(f"datasets.train.flow_cache: network_g {name} takes no optical flow; take flow_cache out")
    for key, wanted in (("method", traits.flow), ("num_frame", traits.num_frame)):
        if info[key] != wanted:
            raise UserError(
                f"{path}: holds flow of {key} {info[key]}, but network_g {name} wants {wanted}; make it again with "
                "kdsr cache-flow"
            )
