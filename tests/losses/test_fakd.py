"""FAKD's affinities: golden values and gradients, tiles against the plain formula, zero vectors, memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from kdsr_arch.losses.affinity import (
    channel_affinity,
    instance_affinity,
    pool_map,
    spatial_affinity,
    spatial_affinity_loss,
)
from kdsr_arch.losses.classic_loss import ATLoss, FitNetLoss, FSPLoss
from kdsr_arch.losses.fakd_loss import FAKDLoss
from tests.helpers.messages import refuses


def _features(z, side, dtype=torch.float32):
    count = sum(k.startswith("in/s") and k[4:].isdigit() for k in z.files)
    return [torch.from_numpy(z[f"in/{side}{i}"]).to(dtype) for i in range(count)]


def _losses(z):
    pool = int(z["hp/pool_size"])
    return {
        "sa": FAKDLoss(),
        "ca": FAKDLoss("channel"),
        "ia": FAKDLoss("instance"),
        "psamax": FAKDLoss(pool=pool, pool_mode="max"),
        "psaavg": FAKDLoss(pool=pool),
        "at": ATLoss(criterion="l1"),
        "fitnet": FitNetLoss("l1"),
        "fsp": FSPLoss("l1"),
    }


def _run(loss, students, teachers):
    if loss.multi:
        return loss(students, teachers)
    return sum(loss(s, t) for s, t in zip(students, teachers, strict=True))


@pytest.mark.parametrize("name", ["sa", "ca", "ia", "psamax", "psaavg", "at", "fitnet", "fsp"])
def test_losses_and_gradients_equal_golden(vectors, name):
    z = vectors("fakd_affinity")
    students = [s.requires_grad_() for s in _features(z, "s")]
    loss = _run(_losses(z)[name], students, _features(z, "t"))
    np.testing.assert_allclose(loss.item(), z[f"out/loss_{name}"], rtol=1e-5)
    loss.backward()
    for i, s in enumerate(students):
        reference = z[f"grad/loss_{name}/s{i}"]
        np.testing.assert_allclose(s.grad.numpy(), reference, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("name", ["sa", "ca", "ia", "psamax", "psaavg", "at", "fitnet", "fsp"])
def test_float64_equals_golden(vectors, name):
    z = vectors("fakd_affinity")
    double = torch.float64
    got = _run(_losses(z)[name], _features(z, "s", double), _features(z, "t", double))
    np.testing.assert_allclose(got.item(), z[f"out64/loss_{name}"], rtol=1e-9)


@pytest.mark.parametrize("name", ["sa", "ia", "psamax", "psaavg", "at"])
def test_teacher_of_another_width(vectors, name):
    z = vectors("fakd_affinity")
    got = _run(_losses(z)[name], _features(z, "s"), _features(z, "tb"))
    np.testing.assert_allclose(got.item(), z[f"out/loss_{name}_2C"], rtol=1e-5)


def test_matrices_equal_golden(vectors):
    z = vectors("fakd_affinity")
    maps = {"sa": spatial_affinity, "ca": channel_affinity, "ia": instance_affinity}
    maps["psaavg"] = lambda x: spatial_affinity(pool_map(x, int(z["hp/pool_size"])))
    for name, function in maps.items():
        for side in "st":
            for i, x in enumerate(_features(z, side)):
                reference = z[f"out/{name}_{side}{i}"]
                got = function(x).numpy().reshape(reference.shape)
                np.testing.assert_allclose(got, reference, rtol=1e-5, atol=2e-6)


def test_published_total(vectors):
    z = vectors("fakd_affinity")
    sr, teacher_sr, hr = (torch.from_numpy(z[f"in/{k}"]) for k in ("student_sr", "teacher_sr", "hr"))
    students, teachers = _features(z, "s"), _features(z, "t")
    alpha = float(z["hp/total_alpha"])
    total = (1 - alpha) * (sr - hr).abs().mean() + alpha * (sr - teacher_sr).abs().mean()
    total += float(z["hp/total_w_sa"]) * _run(FAKDLoss(), students, teachers)
    total += float(z["hp/total_w_ca"]) * _run(FAKDLoss("channel"), students, teachers)
    np.testing.assert_allclose(total.item(), z["out/total_loss"], rtol=5e-6)


@pytest.mark.parametrize("affinity", ["spatial", "channel", "instance"])
@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_gradcheck_in_tiles(affinity, criterion):
    s = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    loss = FAKDLoss(affinity, criterion, tile=5)
    assert torch.autograd.gradcheck(lambda x: 3 * loss(x, t), s, atol=1e-6)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize("tile", [1, 7, 30, 64])
def test_tiles_equal_the_plain_formula(criterion, tile):
    s, t = torch.randn(2, 6, 5, 6), torch.randn(2, 9, 5, 6)
    results = []
    for how in (tile, "none"):
        a, b = s.clone().requires_grad_(), t.clone().requires_grad_()
        loss = FAKDLoss(criterion=criterion, tile=how)(a, b)
        loss.backward()
        results.append((loss, a.grad, b.grad))
    for tiled, plain in zip(*results, strict=True):
        torch.testing.assert_close(tiled, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_zero_vectors(vectors):
    """The same maps as the plain formula, and finite gradients where its root has none."""
    z = vectors("fakd_affinity")
    x = torch.from_numpy(z["in/zero_s"])
    np.testing.assert_allclose(spatial_affinity(x).numpy(), z["out/zero_sa"][:, 0], atol=2e-6)
    np.testing.assert_allclose(channel_affinity(x).numpy(), z["out/zero_ca"][:, 0], atol=2e-6)
    teacher = torch.from_numpy(z["in/t0"])
    for loss in (FAKDLoss(), FAKDLoss("channel"), FAKDLoss("instance"), ATLoss()):
        for zeros in (x, torch.zeros_like(x)):
            s = zeros.clone().requires_grad_()
            loss(s, teacher).backward()
            assert torch.isfinite(s.grad).all()
            assert s.grad.abs().max() < 100
    s = x.clone().requires_grad_()
    FAKDLoss()(s, teacher).backward()
    assert s.grad.abs().sum() > 0


def test_constant_teacher_gets_no_gradient_and_no_copy():
    s, t = torch.randn(1, 4, 6, 6, requires_grad=True), torch.randn(1, 4, 6, 6)
    spatial_affinity_loss(s, t).backward()
    assert s.grad.abs().max() > 0 and t.grad is None
    with torch.no_grad():
        assert not spatial_affinity_loss(s, t).requires_grad


@pytest.mark.parametrize("tile", [7, 64])
def test_a_gradient_is_the_same_whether_or_not_the_other_side_wants_one(tile):
    s, t = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(2, 6, 5, 4, dtype=torch.float64)

    def gradients(ours, theirs):
        a, b = s.clone().requires_grad_(ours), t.clone().requires_grad_(theirs)
        spatial_affinity_loss(a, b, tile=tile).backward()
        return a.grad, b.grad

    both = gradients(True, True)
    torch.testing.assert_close(gradients(True, False)[0], both[0])
    torch.testing.assert_close(gradients(False, True)[1], both[1])


def test_the_plain_formula_is_refused_where_it_cannot_fit():
    loss = FAKDLoss(tile="none")
    shape = torch.Size((1, 64, 256, 256))
    with refuses("FAKDLoss", "256x256", "65536^2", "64.0 GiB", "tile: auto"):
        loss.setup([shape], [shape])
    FAKDLoss().setup([shape], [shape])
    FAKDLoss(tile="none", pool=8).setup([shape], [shape])


@pytest.mark.parametrize("options", [{"affinity": "spacial"}, {"pool": 0}, {"tile": -1}, {"pool_mode": "min"}])
def test_bad_options(options):
    with refuses("FAKDLoss", *options, *options.values()):
        FAKDLoss(**options)


def test_alignment_needs():
    assert (FAKDLoss().align_channels, FAKDLoss().align_size) == (False, True)
    assert (FAKDLoss("channel").align_channels, FAKDLoss("channel").align_size) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize("side", [80, 256])
def test_memory_in_tiles(side):
    """Forward and backward over a map whose whole matrices would take GiB (64 GiB for 256x256)."""
    code = f"""
import resource, torch
from kdsr_arch.losses.fakd_loss import FAKDLoss
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
s, t = torch.randn(1, 64, {side}, {side}, requires_grad=True), torch.randn(1, 64, {side}, {side})
s.grad = torch.zeros_like(s)
FAKDLoss()(s[..., :8, :8], t[..., :8, :8]).backward()
before = peak()
FAKDLoss()(s, t).backward()
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < (150 if side == 80 else 1536)
