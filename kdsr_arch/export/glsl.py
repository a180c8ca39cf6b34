"""User shaders for mpv and libplacebo, tried in ffmpeg's libplacebo filter before they are written: on a GPU, or on a
Vulkan driver in software."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdsr_arch.archs.chain import REACH, Chain, Layer, read_chain
from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared, metadata
from kdsr_arch.export.formats import Deviation, deviations
from kdsr_arch.io import METADATA_KEY, write_bytes

MOST_TEXTURES = 16  # that one pass can read, in mpv and in libplacebo
LIMIT, LEAST_PSNR = 1 / 255, 60.0
_MISSING = (
    "glsl: a shader is tried in ffmpeg's libplacebo filter before it is written; install an ffmpeg that has it and a "
    "Vulkan driver (Debian: apt install ffmpeg mesa-vulkan-drivers)"
)
_TEXTURES = ("KDSR_A", "KDSR_B")  # written in turn, so that a player keeps two layers at most
# Textures have half floats. Some drivers cut what does not fit, which darkens the image layer by layer: round instead.
_RETURN = "return uintBitsToFloat((floatBitsToUint(r) + 0x1000u) & 0xffffe000u);\n}\n"


def to_glsl(prepared: Prepared, path: Path) -> list[Deviation]:
    """Write the shader and return how far its 16-bit output is from PyTorch.

    Raises:
        UserError: --fp16 was asked for, the network is no chain of convolutions or too wide, ffmpeg cannot run
            shaders, or the difference is above one 8-bit value or below 60 dB.
    """
    if prepared.half:
        raise UserError("glsl: leave --fp16 out; the player chooses the precision of a shader")
    text = shader(prepared)
    run = placebo_runner(prepared.student.traits.scale, text)
    expected = nn.Sequential(Photograph(), prepared.reference, nn.Hardtanh(0.0, 1.0))  # 16 bits hold no more
    differences = deviations(
        replace(prepared, reference=expected), lambda noise: run(Photograph()(noise)), "glsl", {"fp32": LIMIT}
    )
    worst = min(d.psnr for d in differences)
    if worst <= LEAST_PSNR:
        raise UserError(f"glsl: {worst:.1f} dB from PyTorch, not above {LEAST_PSNR:.0f}; not written")
    write_bytes(path, text.encode())
    return differences


# ------------------------------------------------------------------------------------------------------- the shader


def shader(prepared: Prepared) -> str:
    """Make the text: fragment passes that write four channels each, and one that puts the pixels together.

    Raises:
        UserError: the network is no chain of convolutions, or wider than a pass can read.
    """
    chain = read_chain(prepared.module.net, prepared.student.traits, "glsl")
    hook, channels = ("LUMA", 1) if prepared.student.traits.color == "y" else ("MAIN", 3)
    facts = metadata(prepared)
    source, width = hook, channels
    passes: list[str] = []
    for number, layer in enumerate(chain.layers):
        _check_width(layer, int(number == len(chain.layers) - 1))  # the last pass reads the image as well
        passes += _layer_passes(hook, source, width, _TEXTURES[number % 2], layer)
        source, width = _TEXTURES[number % 2], len(layer.bias)
    passes.append(_last_pass(hook, channels, source, width, chain))
    head = f"// {prepared.student.label}: {facts['color']} x{facts['scale']}, for mpv and libplacebo, by kdsr\n"
    return head + f"// {METADATA_KEY}: {facts[METADATA_KEY]}\n\n" + "\n".join(passes)


def _check_width(layer: Layer, more: int) -> None:
    """Refuse more output channels than the pass that reads them can bind, ``more`` textures being bound beside."""
    if -(-len(layer.bias) // 4) + more > MOST_TEXTURES:
        raise UserError(
            f"glsl: {layer.path} has {len(layer.bias)} channels; a pass reads {4 * (MOST_TEXTURES - more)} at most"
        )


def _textures(source: str, width: int) -> list[tuple[str, int]]:
    """The textures that hold a feature map or the image, and how many channels each has."""
    if source not in _TEXTURES:
        return [(source, width)]
    return [(f"{source}{i}", min(4, width - 4 * i)) for i in range(-(-width // 4))]


def _header(hook: str, binds: list[str], desc: str, **more: str) -> str:
    lines = [
        f"HOOK {hook}",
        *(f"BIND {name}" for name in binds),
        *(f"{k} {v}" for k, v in more.items()),
        f"DESC {desc}",
    ]
    return "".join(f"//!{line}\n" for line in lines)


def _vector(values: Tensor) -> str:
    return ", ".join(f"{value:.6e}" for value in values.flatten().tolist())


def _layer_passes(hook: str, source: str, width: int, target: str, layer: Layer) -> Iterator[str]:
    """Write a convolution and its activation, a pass for every four of its channels."""
    textures = _textures(source, width)
    outputs = _textures(target, len(layer.bias))
    for number, (name, kept) in enumerate(outputs):
        part = slice(4 * number, 4 * number + kept)
        weight, bias = layer.weight.new_zeros(4, *layer.weight.shape[1:]), layer.bias.new_zeros(4)
        weight[:kept], bias[:kept] = layer.weight[part], layer.bias[part]
        lines = [f"vec4 r = vec4({_vector(bias)});", "ivec2 p;" if _is_ours(source) else "vec2 p;"]
        lines += [_tap(textures, weight[..., y, x], x + layer.first, y + layer.first)
                  for y in range(weight.shape[2]) for x in range(weight.shape[3])]  # fmt: skip
        if layer.slope is not None:
            slope = bias.new_zeros(4)
            slope[:kept] = layer.slope[part]
            lines.append(f"r = max(r, 0.0) + vec4({_vector(slope)}) * min(r, 0.0);")
        desc = f"kdsr {layer.path} {number + 1}/{len(outputs)}"
        head = _header(hook, [texture for texture, _ in textures], desc, SAVE=name, COMPONENTS="4")
        yield head + "vec4 hook() {\n" + "\n".join(lines) + "\n" + _RETURN


def _tap(textures: list[tuple[str, int]], weight: Tensor, x: int, y: int) -> str:
    """Add what the pixel at (x, y) from here gives: nothing outside the image, as PyTorch pads with zeros."""
    kinds, swizzles = ("vec4", "mat2x4", "mat3x4", "mat4"), (".x", ".xy", ".xyz", "")
    products = []
    for number, (name, width) in enumerate(textures):
        columns = weight[:, 4 * number : 4 * number + width].T
        products.append(f"{kinds[width - 1]}({_vector(columns)}) * {_read(name)}{swizzles[width - 1]}")
    name = textures[0][0]
    if _is_ours(name):
        move, inside = (
            f"p = ivec2({name}_pos * {name}_size) + ivec2({x}, {y});",
            f"clamp(p, ivec2(0), ivec2({name}_size) - 1)",
        )
    else:
        move, inside = f"p = {name}_pos + {name}_pt * vec2({x}.0, {y}.0);", "clamp(p, 0.0, 1.0)"
    total = "\n    + ".join(products)
    return f"{move}\nif (p == {inside}) r += {total};" if x or y else f"{move}\nr += {total};"


def _is_ours(name: str) -> bool:
    return name.startswith(_TEXTURES)


def _read(name: str) -> str:
    """Read a texture at p: ours by pixels, exactly; the player's, which may be cut or turned, by its own function."""
    return f"texelFetch({name}_raw, p, 0)" if _is_ours(name) else f"{name}_tex(p)"


def _last_pass(hook: str, channels: int, source: str, width: int, chain: Chain) -> str:
    """Write the pixel-shuffle and the enlarged input."""
    scale, swizzle = chain.scale, "rgb"[:channels]
    textures = [name for name, _ in _textures(source, width)]
    first = textures[0]
    lines = [
        f"vec2 f = {first}_pos * {first}_size;",  # in LR pixels; each is cut into scale x scale
        f"ivec2 phase = ivec2(fract(f) * {scale}.0);",
        "ivec2 p = ivec2(f);",
        f"vec4 r = {hook}_tex({hook}_pos);",
    ]
    for channel in range(channels):
        lines.append(f"int n{channel} = {channel * scale**2} + phase.y * {scale} + phase.x;")
        lines += [f"if (n{channel} / 4 == {i}) r[{channel}] = {_read(name)}[n{channel} % 4];"
                  for i, name in enumerate(textures)]  # fmt: skip
    if chain.base is not None:
        lines += _base(hook, swizzle, chain.base)
    more = {
        "WIDTH": f"{hook}.w {scale} *",
        "HEIGHT": f"{hook}.h {scale} *",
        "COMPONENTS": str(4 if channels > 1 else 1),
    }
    head = _header(hook, [hook, *textures], f"kdsr x{scale}", **more)
    return head + "vec4 hook() {\n" + "\n".join(lines) + "\n" + _RETURN


def _base(hook: str, swizzle: str, weights: Tensor) -> list[str]:
    """Add the image, enlarged by weights for each phase, its borders mirrored."""
    used = weights.abs().amax(0).nonzero().flatten() - REACH
    low, high = int(used.min()), int(used.max())
    kernel, count = weights[:, low + REACH : high + REACH + 1], high - low + 1
    return [
        f"const float kernel[{kernel.numel()}] = float[{kernel.numel()}]({_vector(kernel)});",
        f"vec2 middle = {hook}_pos + (floor(f) + 0.5 - f) * {hook}_pt;",
        f"for (int y = 0; y < {count}; y++) for (int x = 0; x < {count}; x++) {{",
        f"vec2 q = 1.0 - abs(1.0 - abs(middle + vec2(x + {low}, y + {low}) * {hook}_pt));",
        f"float w = kernel[phase.y * {count} + y] * kernel[phase.x * {count} + x];",
        f"r.{swizzle} += w * {hook}_tex(q).{swizzle};",
        "}",
    ]


# ------------------------------------------------------------------------------------------------------------ its trial


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
