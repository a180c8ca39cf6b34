"""Trial of user shaders: ffmpeg's libplacebo filter runs them, on a GPU or on a Vulkan driver in software."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError

_MISSING = (
    "glsl: a shader is tried in ffmpeg's libplacebo filter before it is written; install an ffmpeg that has it and a "
    "Vulkan driver (Debian: apt install ffmpeg mesa-vulkan-drivers)"
)


class Photograph(nn.Module):
    """Noise with the spectrum of photographs: what half floats are right for, as white noise, whose features are 20
    times as large, is not."""

    def forward(self, noise: Tensor) -> Tensor:
        """Give white noise (N, C, h, w) amplitudes that fall as 1 / frequency, in [0, 1] and 16-bit steps."""
        height, width = noise.shape[-2:]
        rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
        frequency = (rows**2 + columns**2).sqrt()
        frequency[0, 0] = math.inf
        x = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
        x = 0.5 + 0.2 * x / x.std((-2, -1), keepdim=True)
        return (x.clamp(0, 1) * 65535).round() / 65535


def placebo_runner(scale: int, text: str) -> Callable[[Tensor], Tensor]:
    """Run a shader in ffmpeg's libplacebo filter, on the first Vulkan device, with 16 bits in and out.

    Args:
        scale: by which it enlarges.
        text: the shader.

    Returns:
        a function of (N, C, h, w) in [0, 1]; its result is cut to that range.

    Raises:
        UserError: ffmpeg, its filter or a Vulkan driver is missing.
    """
    trial = ["-f", "lavfi", "-i", "color=s=16x16", "-vf", "hwupload,libplacebo", "-frames:v", "1", "-f", "null", "-"]
    if shutil.which("ffmpeg") is None or _ffmpeg(trial)[1]:
        raise UserError(_MISSING)

    def run(lq: Tensor) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "net.glsl").write_text(text)
            return _placebo(Path(folder), lq, scale)

    return run


def _placebo(folder: Path, lq: Tensor, scale: int) -> Tensor:
    """Enlarge frames; gray ones travel as the luma of full-range video."""
    count, channels, height, width = lq.shape
    alpha_or_chroma = (1, 1.0) if channels == 3 else (2, 0.5)
    rest = torch.full((count, alpha_or_chroma[0], height, width), alpha_or_chroma[1])
    tags = f"range=pc:colorspace={'gbr' if channels == 3 else 'bt709'}"
    pixels, axes = ("rgba64le", (0, 2, 3, 1)) if channels == 3 else ("yuv444p16le", (0, 1, 2, 3))
    sent = (torch.cat([lq.clamp(0, 1), rest], 1).permute(axes) * 65535).round().to(torch.int32).numpy().astype("<u2")
    enlarge = f"libplacebo=w={width * scale}:h={height * scale}:{tags}:dithering=none:custom_shader_path=net.glsl"
    arguments = ["-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-i", "pipe:0"]
    arguments += ["-vf", f"setparams={tags},hwupload,{enlarge},hwdownload,format={pixels}", "-f", "rawvideo", "pipe:1"]
    out, failed = _ffmpeg(arguments, sent.tobytes(), folder)
    if failed:
        raise RuntimeError(failed)
    result = torch.from_numpy(np.frombuffer(out, "<u2").astype(np.float32) / 65535)
    if channels == 3:
        return result.view(count, height * scale, width * scale, 4)[..., :3].permute(0, 3, 1, 2)
    return result.view(count, 3, height * scale, width * scale)[:, :1]


def _ffmpeg(arguments: list[str], sent: bytes = b"", folder: Path | None = None) -> tuple[bytes, str]:
    """Return what ffmpeg writes with a Vulkan device at hand, and why it failed; empty where it did not."""
    device = ["-init_hw_device", "vulkan=gpu", "-filter_hw_device", "gpu"]
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", *device, *arguments],
        input=sent, capture_output=True, cwd=folder, check=False,
    )  # fmt: skip
    said = " ".join(done.stderr.decode(errors="replace").split())[:200]
    return done.stdout, said or "ffmpeg failed" if done.returncode else ""
