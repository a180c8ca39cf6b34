"""basicsr is importable and usable here, quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT


def _python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_everything_registers_without_a_warning() -> None:
    """Run from the repository, whose folder `basicsr` must not hide the installed package."""
    done = _python(
        "from kdsr_arch.registry import register_all; register_all()\n"
        "import basicsr, sys\n"
        "from basicsr.utils.registry import ARCH_REGISTRY\n"
        "assert basicsr.__version__ == '1.4.2' and 'site-packages' in basicsr.__file__\n"
        "assert {'EDVR', 'VESPCN', 'RCAN'} <= set(ARCH_REGISTRY.keys())\n"
        "assert 'distutils.version' not in sys.modules or hasattr(sys.modules['distutils.version'], 'StrictVersion')\n"
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_edvr_runs_quietly_through_the_deformable_convolution() -> None:
    done = _python(
        "import kdsr_arch\n"
        "import torch\n"
        "from basicsr.archs.edvr_arch import EDVR\n"
        "net = EDVR(num_feat=8, num_frame=3, deformable_groups=2, num_extract_block=1, num_reconstruct_block=1)\n"
        "y = net(torch.rand(1, 3, 3, 8, 8))\n"
        "y.sum().backward()\n"
        "assert y.shape == (1, 3, 32, 32)\n"
        "assert net.pcd_align.dcn_pack['l1'].conv_offset.weight.grad.abs().sum() > 0\n"
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


# One process imports what takes long and is patched by nobody; each piece of code then has a fork of it to itself.
FORKS = """
import os, runpy, sys
import cv2, scipy.stats, torch._dynamo
failed = []
for file in sys.argv[1:]:
    if not (child := os.fork()):
        runpy.run_path(file)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(file)
sys.exit(", ".join(failed) or 0)
"""


def test_basicsr_can_be_imported_anywhere_after_the_package(tmp_path: Path) -> None:
    codes = [
        "import kdsr_arch, basicsr; assert basicsr.__version__ == '1.4.2'",
        "import kdsr_arch; from basicsr.archs.edvr_arch import EDVR",
        "import kdsr_arch; from basicsr.data.degradations import add_jpg_compression",
        "import kdsr_arch; from basicsr.utils.matlab_functions import bgr2ycbcr, rgb2ycbcr, ycbcr2bgr, ycbcr2rgb",
        "import torch, kdsr_arch; from basicsr.models import build_model",
        "import kdsr_arch, torchvision; torchvision.ops.nms; import basicsr",
        "from kdsr_arch.registry import ARCH_REGISTRY; from basicsr.utils.registry import ARCH_REGISTRY as a\n"
        "assert a is ARCH_REGISTRY",
        "import kdsr_arch, basicsr, importlib.machinery as m, importlib.resources as r\n"
        "assert type(basicsr.__loader__) is type(basicsr.__spec__.loader) is m.SourceFileLoader\n"
        "assert r.files('basicsr').joinpath('version.py').is_file()\n",
    ]
    files = [tmp_path / f"{number}.py" for number in range(len(codes))]
    for file, code in zip(files, codes, strict=True):
        file.write_text(code)
    done = _python(FORKS, *map(str, files))
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_package_itself_imports_nothing_heavy() -> None:
    done = _python("import kdsr_arch.cli, sys; assert not {'torch', 'cv2', 'basicsr'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
