"""Projects outside of the package for tests, and a process that forgets them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kdsr_arch import plugins, registry

ARCH = """
from torch import nn
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class OwnNet(nn.Module):
    '''A network of a user.'''
    def __init__(self, upscale=2, num_feat=4):
        super().__init__()
        self.upscale = upscale
        self.body = nn.Conv2d(3, num_feat, 3, padding=1)
        self.tail = nn.Conv2d(num_feat, 3 * upscale**2, 3, padding=1)
    def forward(self, x):
        return nn.functional.pixel_shuffle(self.tail(self.body(x).relu()), self.upscale)
"""
LOSS = """
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.registry import LOSS_REGISTRY

@LOSS_REGISTRY.register()
class OwnLoss(DistillLoss):
    def __init__(self, power=1.0):
        super().__init__()
        self.power = power
    def forward(self, student, teacher):
        return ((student - teacher).abs() ** self.power).mean()
"""
DATASET = """
import os
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from data.util import noise

@DATASET_REGISTRY.register()
class OwnDataset(torch.utils.data.Dataset):
    def __init__(self, opt):
        self.opt = opt
        assert 'use_flip' in opt and opt['phase'] in ('train', 'val') and opt['scale'] == 2
    def __len__(self):
        return 8
    def __getitem__(self, index):
        gt = noise(index, self.opt.get('gt_size') or 32)
        return {'gt': gt, 'lq': gt[:, ::2, ::2], 'lq_path': f'{index}.png', 'gt_path': f'{index}.png'}
"""
UTIL = """
import torch

def noise(seed, size):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))
"""
MODEL = """
from basicsr.utils.registry import MODEL_REGISTRY
from kdsr_arch.train.distill_model import ImageDistillModel

@MODEL_REGISTRY.register()
class OwnModel(ImageDistillModel):
    '''Trains as its base does.'''
"""
METRIC = """
from basicsr.utils.registry import METRIC_REGISTRY

@METRIC_REGISTRY.register()
def own_metric(img, img2, crop_border=0):
    return float(abs(img.astype('float64') - img2).mean())
"""
FILES = {
    "archs/own_arch.py": ARCH,
    "losses/own_loss.py": LOSS,
    "data/own_dataset.py": DATASET,
    "data/util.py": UTIL,
    "models/own_model.py": MODEL,
    "metrics/own_metric.py": METRIC,
}
"""A project as BasicSR's are, without ``__init__.py``."""


def write_files(folder: Path, files: Mapping[str, str]) -> Path:
    """Write texts below a folder, by their paths."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@contextmanager
def forgotten() -> Iterator[None]:
    """Take away what the block imports from outside of the package and registers."""
    registry.register_all()
    registered = {one: dict(one._obj_map) for one in registry._REGISTRIES.values()}
    path, modules, loaded = [*sys.path], {*sys.modules}, dict(plugins._loaded)
    try:
        yield
    finally:
        for one, before in registered.items():
            one._obj_map = before
        sys.path[:] = path
        for name in {*sys.modules} - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if name.split(".")[0] != "kdsr_arch" and (file is None or "site-packages" not in file):
                sys.modules.pop(name)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
