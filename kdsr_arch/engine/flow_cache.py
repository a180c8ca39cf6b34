"""Estimates the optical flow that a network's motion compensation needs, once for all training windows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.data.augment import to_tensor
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.clips import Clip
from kdsr_arch.data.flow_store import INFO, flow_key, packed_flow
from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.progress import Progress
from kdsr_arch.data.store.lmdb_writer import LmdbWriter
from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError
from kdsr_arch.infer.networks import build_network
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.color import rgb_to_y


@dataclass(frozen=True)
class Filled:
    """What was stored.

    Attributes:
        frames: centre frames. flows: between two frames each. bytes: of the store. seconds: spent in this run.
    """

    frames: int
    flows: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.flows:,} flows of {self.frames:,} frames, {self.bytes / 2**20:.1f} MiB, {self.seconds:.1f} s "
            f"({self.bytes / max(self.frames, 1) / 1024:.0f} KiB a frame)"
        )


def beside_the_clips(opt: Mapping[str, Any]) -> Path:
    """Where the flow of ``datasets.train`` is kept unless the user says: ``NAME_flow_x4.lmdb`` beside the clips."""
    root = opt["datasets"]["train"].get("dataroot_lq") or opt["datasets"]["train"].get("dataroot_gt")
    if not isinstance(root, str):
        raise UserError("cache-flow: datasets.train names no single folder of clips; name the store with -o")
    return Path(root).with_name(f"{Path(root).stem}_flow_x{opt['scale']}.lmdb")


def fill_flow_store(opt: Mapping[str, Any], path: Path) -> Filled:
    """Estimate the flow of every training window's neighbours to its centre, on whole enlarged frames.

    Broken off, it goes on when it is called again.

    Raises:
        UserError: a network without estimated flow, a data set that is no ClipDataset, or a store that exists.
    """
    net: Any = build_network(opt["network_g"], "network_g")
    traits = traits_of(net, opt["scale"])
    dataset = _open(opt, type(net).__name__, traits)
    device = pick_device(opt.get("num_gpu", 0) if net.compensate.method == "spynet" else 0)
    recipe = dataset.flow_recipe() | {"method": traits.flow, "num_frame": traits.num_frame}
    began, flows = time.monotonic(), 0
    with LmdbWriter(path, recipe) as writer:
        progress = Progress(path.name, len(dataset.clips), len(writer.state), unit="clips")
        for clip in dataset.clips:
            if clip.name in writer.state:
                continue
            pairs = sorted(set(dataset.flow_places(clip, traits.num_frame)))
            for (centre, neighbour), flow in _flows(dataset, clip, pairs, net, device):
                writer.put(flow_key(clip.lq[centre], clip.lq[neighbour]), packed_flow(flow.numpy()).tobytes())
            writer.state[clip.name] = len(pairs)
            if writer.is_due:
                writer.commit()
            progress.add()
        flows = sum(writer.state.values())
        writer.finish({INFO: json.dumps(recipe)})
    progress.close()
    frames = sum(len(clip.gt) for clip in dataset.clips)
    return Filled(frames, flows, sum(file.stat().st_size for file in path.iterdir()), time.monotonic() - began)


def _open(opt: Mapping[str, Any], name: str, traits: Traits) -> ClipDataset:
    if not traits.flow:
        raise UserError(
            f"cache-flow: network_g {name} estimates no optical flow (VSRNet with flow 'dis' or 'spynet' does)"
        )
    plain = {key: value for key, value in opt["datasets"]["train"].items() if key != "flow_cache"}
    if plain["type"] != "ClipDataset":
        raise UserError(f"cache-flow: datasets.train is a {plain['type']}; flow is stored for ClipDataset")
    dataset = open_dataset({**plain, "cache": False}, "datasets.train")
    if traits.num_frame > dataset.num_frame:
        raise UserError(
            f"cache-flow: network_g {name} sees windows of {traits.num_frame}, but "
            f"datasets.train.num_frame is {dataset.num_frame}"
        )
    return dataset


def _flows(
    dataset: ClipDataset, clip: Clip, pairs: list[tuple[int, int]], net: Any, device: torch.device
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Each pair with its flow (2, H, W), on the CPU; every frame is read once."""
    held: dict[int, Tensor] = {}
    reach = max(abs(centre - neighbour) for centre, neighbour in pairs)
    for centre, neighbour in pairs:  # by centre: what lies too far behind is not needed any more
        for place in (centre, neighbour):
            if place not in held:
                held[place] = _enlarged(dataset, clip.lq[place], net.traits).to(device)
        for place in [place for place in held if place < centre - reach]:
            del held[place]
        yield (centre, neighbour), net.compensate.flow(held[centre], held[neighbour])[0].cpu()


def _enlarged(dataset: ClipDataset, key: str, traits: Traits) -> Tensor:
    """An LR frame as the network is given it: (1, C, H, W)."""
    frame = to_tensor(dataset.pairs.read([key], [], None)[0], color=dataset.color)
    if traits.color == "y" and frame.shape[1] == 3:
        frame = rgb_to_y(frame)
    return upsample_bicubic(frame, traits.scale)
