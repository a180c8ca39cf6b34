"""Metrics inside faces: where they look, that they look once, and facexlib's own loading where it is installed."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from kdsr_arch.metrics import faces_metric
from kdsr_arch.metrics.faces_metric import calculate_face_psnr, calculate_face_ssim, load_detector
from kdsr_arch.metrics.psnr_metric import psnr, ssim
from tests.helpers.messages import refuses

HAS_FACEXLIB = importlib.util.find_spec("facexlib") is not None
TRUTH = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
RESULT = np.clip(TRUTH.astype(int) + np.random.default_rng(1).integers(-9, 9, TRUTH.shape), 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def fresh():
    faces_metric._found.clear()
    load_detector.cache_clear()
    yield
    load_detector.cache_clear()


class Detector:
    def __init__(self, *boxes):
        self.boxes, self.calls = boxes, 0

    def detect_faces(self, image, threshold):
        self.calls += 1
        return np.array([[*box, 0.99, *[0] * 10] for box in self.boxes], dtype=np.float32)


def use(monkeypatch, *boxes):
    detector = Detector(*boxes)
    monkeypatch.setattr(faces_metric, "load_detector", lambda *_: detector)
    return detector


def test_the_mean_over_the_faces_of_the_ground_truth(monkeypatch):
    detector = use(monkeypatch, (10.4, 5.2, 39.5, 30.1), (50, 30, 200, 200), (1, 1, 6, 6))  # the last is too small
    parts = [np.s_[5:31, 10:40], np.s_[30:60, 50:80]]
    for metric, plain in ((calculate_face_psnr, psnr), (calculate_face_ssim, ssim)):
        expected = np.mean([plain(RESULT[part], TRUTH[part], 0, True) for part in parts])
        assert metric(RESULT, TRUTH) == pytest.approx(expected, abs=1e-9)
    assert detector.calls == 1  # found once, whatever is measured there


def test_no_face(monkeypatch):
    use(monkeypatch)
    assert np.isnan(calculate_face_psnr(RESULT, TRUTH))


def test_refusals(monkeypatch):
    with refuses("'haar'", "retinaface_resnet50"):
        load_detector("haar")
    monkeypatch.setitem(sys.modules, "facexlib.detection", None)
    with refuses("facexlib", "pip install 'kdsr[faces]'"):
        calculate_face_psnr(RESULT, TRUTH)


def test_suppression_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 4], [50, 50, 60, 60]])
    scores = torch.tensor([0.7, 0.9, 0.8, 0.1])
    # boxes 0 and 1 share 90 of 110; 1 and 2 share 36 of 104; 0 goes, 2 stays
    assert faces_metric.suppress(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert faces_metric.suppress(boxes, scores, 0.3).tolist() == [1, 3]
    assert faces_metric.suppress(boxes[:0], scores[:0], 0.3).tolist() == []


@pytest.mark.skipif(not HAS_FACEXLIB, reason="the extra 'faces' (facexlib) is not installed")
def test_facexlib_loads_local_weights(tmp_path):
    from facexlib.detection.retinaface import RetinaFace

    path = tmp_path / "small.pth"
    source = RetinaFace(network_name="mobile0.25", half=False, device=torch.device("cpu"))
    torch.save({f"module.{k}": v for k, v in source.state_dict().items()}, path)
    network = load_detector("retinaface_mobile0.25", str(path))
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value.cpu(), source.state_dict()[key])
    value = calculate_face_psnr(RESULT, TRUTH, detector="retinaface_mobile0.25", weights=str(path), threshold=0.999)
    assert np.isnan(value) or value > 0
    torch.save({"a": torch.zeros(1)}, path)
    load_detector.cache_clear()
    with refuses(path):
        load_detector("retinaface_mobile0.25", str(path))
