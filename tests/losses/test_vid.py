"""VID and PISR's loss against golden values, gradients and parameter counts."""

import numpy as np
import pytest
import torch

from kdsr_arch.losses.vid_loss import PISRLoss, VariationalLoss, VIDLoss
from tests.helpers.messages import refuses

SPREADS = {"None": "element", "C": "channel", "HW": "position", "CHW": "layer"}


def _ready(loss, students, teachers):
    loss.setup([s.shape for s in students], [t.shape for t in teachers])
    return loss


def _estimator_state(z, mode):
    return {k[len(f"sd/{mode}/") :]: torch.from_numpy(z[k]) for k in z.files if k.startswith(f"sd/{mode}/")}


def _pisr(z, *options):
    loss = PISRLoss(*options)
    loss.eps = float(z["hp/epsilon"])
    return loss


@pytest.mark.parametrize("mode", SPREADS)
@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
def test_pisr_equals_golden(vectors, mode, distribution):
    z = vectors("pisr_vid")
    s, t = torch.from_numpy(z["in/feature_s"]).requires_grad_(), torch.from_numpy(z["in/feature_t"])
    loss = _ready(_pisr(z, distribution, SPREADS[mode]), [s], [t])
    estimator = loss.estimators[0]
    estimator.load_state_dict(_estimator_state(z, mode))
    location, scale = estimator(s)
    np.testing.assert_allclose(location.detach(), z[f"out/{mode}/location"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(scale.detach(), z[f"out/{mode}/scale"], rtol=1e-5, atol=2e-6)
    value = loss([s], [t])
    np.testing.assert_allclose(value.item(), z[f"out/{mode}/{distribution}/distill_loss"], rtol=1e-5)
    value.backward()
    grads = {"feature_s": s.grad, **{n: p.grad for n, p in estimator.named_parameters()}}
    for name, grad in grads.items():
        reference = z[f"grad/{mode}/{distribution}/{name}"]
        np.testing.assert_allclose(grad, reference, atol=1e-5 * np.abs(reference).max(), err_msg=name)
    value64 = loss.double()([s.detach().double()], [t.double()])
    np.testing.assert_allclose(value64.item(), z[f"out64/{mode}/{distribution}/distill_loss"], rtol=1e-9)


@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
def test_pisr_two_layers(vectors, distribution):
    z = vectors("pisr_vid")
    students = [torch.from_numpy(z[f"in/feature_s{i}"]) for i in ("", "2")]
    teachers = [torch.from_numpy(z[f"in/feature_t{i}"]) for i in ("", "2")]
    loss = _ready(_pisr(z, distribution), students, teachers)
    for estimator in loss.estimators:
        estimator.load_state_dict(_estimator_state(z, "None"))
    got = float(z["hp/lambda2_total"]) * loss(students, teachers).item()
    np.testing.assert_allclose(got, z[f"out/None/{distribution}/two_layers_distill_loss"], rtol=1e-5)


def test_pisr_parameter_count():
    shape = torch.Size((1, 56, 8, 8))
    loss = PISRLoss()
    loss.setup([shape], [shape])
    assert sum(p.numel() for p in loss.parameters()) == 12_770


@pytest.mark.parametrize("case", ["same", "s_larger", "t_larger"])
def test_vid_equals_golden(vectors, case):
    z = vectors("vid")
    s, t = torch.from_numpy(z[f"in/{case}/student"]).requires_grad_(), torch.from_numpy(z[f"in/{case}/teacher"])
    loss = VIDLoss(hidden=z["sd/regressor.0.weight"].shape[0], initial=float(z["hp/init_pred_var"]))
    loss.eps = float(z["hp/eps"])
    _ready(loss, [s], [t])
    estimator = loss.estimators[0]
    np.testing.assert_allclose(estimator.log_scale.detach(), z["hp/default_log_scale"].max(), rtol=1e-6)
    state = {k[3:].replace("regressor", "mean"): torch.from_numpy(z[k]) for k in z.files if k.startswith("sd/")}
    estimator.load_state_dict(state)
    value = loss([s], [t])
    np.testing.assert_allclose(value.item(), z[f"out/{case}/loss"], rtol=1e-5)
    value.backward()
    grads = {"student": s.grad, **{n.replace("mean", "regressor"): p.grad for n, p in estimator.named_parameters()}}
    for name, grad in grads.items():
        reference = z[f"grad/{case}/{name}"]
        np.testing.assert_allclose(grad, reference, atol=1e-5 * np.abs(reference).max(), err_msg=name)


@pytest.mark.parametrize("loss", [VIDLoss(), PISRLoss(), PISRLoss("gaussian", "layer")])
def test_gradcheck(loss):
    s, t = torch.randn(2, 3, 3, 2, dtype=torch.float64), torch.randn(2, 4, 3, 2, dtype=torch.float64)
    loss = _ready(loss, [s], [t]).double()
    assert torch.autograd.gradcheck(lambda x: loss([x], [t]), s.requires_grad_())


def test_presets_share_one_implementation():
    assert issubclass(VIDLoss, VariationalLoss) and issubclass(PISRLoss, VariationalLoss)


def test_bad_settings():
    with refuses("VariationalLoss", "'element'", "predicted: true"):
        VariationalLoss(spread="element")
    with refuses("VIDLoss", "(2, 16, 8)"):
        VIDLoss().setup([torch.Size((2, 16, 8))], [torch.Size((2, 16, 8))])
    with pytest.raises(RuntimeError, match="setup"):
        VIDLoss()([torch.zeros(1, 2, 3, 3)], [torch.zeros(1, 2, 3, 3)])
