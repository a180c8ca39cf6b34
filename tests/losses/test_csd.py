"""CSD: the contrast against the authors' own number, features against torchvision's, the loss by hand, who learns."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from kdsr_arch.archs.channel_split_arch import ChannelSplit
from kdsr_arch.losses.csd_loss import CSDLoss, read_vgg
from tests.helpers.messages import refuses
from tests.helpers.networks import SMALL, Image, image_batch
from tests.helpers.options import make_task


def make(data, **term):
    torch.manual_seed(1)
    values = {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"csd": {"type": "CSDLoss", **term}}}
    return make_task(ChannelSplit(SMALL, {"num_feat": 4}, scale=2), None, values, data).train()


def test_the_contrast_is_the_authors():
    def wave(k, *shape):
        return torch.sin(torch.arange(torch.Size(shape).numel()).float() * 0.1 * k + k).view(shape)

    class Two(CSDLoss):  # two features, as their ContrastLoss was given them
        def features(self, image):
            return pairs[id(image)]

    t, s, n = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    shapes = {id(t): (1, 2, 2), id(s): (3, 4, 2), id(n): (5, 6, 3)}
    pairs = {key: [wave(a, count, 3, 4, 4), wave(b, count, 2, 2, 2)] for key, (a, b, count) in shapes.items()}
    loss = Two()
    loss._vgg, loss.weights = (nn.Identity(),), (0.25, 1.0)
    assert loss._contrast(t, s, n).item() == pytest.approx(0.5866159796714783, rel=1e-5)


@pytest.mark.parametrize("detach", [False, True])
def test_by_hand_and_who_learns(detach):
    data = image_batch(3)
    task = make(data, contrast=0.5, teach=2.0, negatives=2, detach=detach)
    net, lq = task.student, data["lq"]
    with net.whole():
        taught = net(lq)
    student = net(lq)
    negatives = F.interpolate(lq[:2], scale_factor=2, mode="bicubic")
    far = sum((negatives[i] - student).abs().mean() for i in (0, 1))
    near = ((taught.detach() if detach else taught) - student).abs().mean()
    wanted = 0.5 * (1 + 1 / 32 + 1 / 16 + 1 / 8 + 1 / 4) * near / (far + 1e-7) + 2 * F.l1_loss(taught, data["gt"])
    output = task(data, 1)
    torch.testing.assert_close(output.raw["l_csd"], wanted)
    wanted.backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    output.losses["l_csd"].backward()
    torch.testing.assert_close({name: p.grad for name, p in net.named_parameters()}, expected)
    assert task.train_only_parameters() == [] and task.train_only_state().keys() == {"csd.weight._extra_state"}


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """A file as torchvision's, of random weights."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    net = make_layers(cfgs["E"])
    state = {f"features.{name}": value.half() for name, value in net.state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(3)}, path)
    return str(path)


def test_features_are_those_behind_the_first_relu_of_each_block(vgg, caplog):
    data = image_batch(3)
    task = make(data, vgg=vgg)
    assert not caplog.records
    loss, image = task.terms["csd"].loss, data["gt"]
    layers = list(read_vgg(vgg))
    names = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
    relus = {}
    for place, layer in enumerate(layers):
        block = 1 + sum(isinstance(m, nn.MaxPool2d) for m in layers[:place])
        if isinstance(layer, nn.ReLU):
            relus.setdefault(f"relu{block}_1", nn.Sequential(*layers[: place + 1]))
    for name, found in zip(names, loss.features(image), strict=True):
        torch.testing.assert_close(found, relus[name](255 * image))
    value = task(data, 1).losses["l_csd"]
    value.backward()
    assert task.student.conv_last.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss._vgg[0].parameters()) and len(task.train_only_state()) == 1


def test_without_weights_of_vgg_it_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        make(image_batch(3))
    assert "vgg" in caplog.text and "not features of VGG" in caplog.text


def test_what_is_refused(tmp_path):
    with refuses("CSDLoss", "negatives"):
        CSDLoss(negatives=0)
    with refuses("CSDLoss", "weights"):
        CSDLoss(weights=[1, 2])
    with refuses("csd", "ChannelSplit"):
        make_task(Image(4), None, {"distill_opt": {"csd": {"type": "CSDLoss"}}}, image_batch(3))
    with refuses("csd", "no such file"):
        make(image_batch(3), vgg=str(tmp_path / "none.pth"))
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with refuses("csd", "other.pth", "VGG-19"):
        make(image_batch(3), vgg=str(tmp_path / "other.pth"))
