"""Golden vectors of networks: weights stored or made by rule, outputs compared at the files' own tolerance."""

import zlib

import numpy as np
import pytest
import torch


def last_axis(maps: torch.Tensor) -> torch.Tensor:
    """As TensorFlow lays maps out: channels last."""
    return maps.movedim(-3, -1)


class Golden:
    """One vector file of a network."""

    def __init__(self, z):
        self.z = z

    def hp(self, name):
        return self.z["hp/" + name].item()

    def input(self, name):
        return torch.from_numpy(self.z["in/" + name])

    def weight(self, name):
        if "sd/" + name in self.z.files:
            return torch.from_numpy(self.z["sd/" + name])
        middle, half = self.z["rule/" + name]
        seed = zlib.crc32(f"{self.hp('weight_seed')}:{name}".encode()) & 0xFFFFFFFF
        uniform = np.random.RandomState(seed).random_sample(tuple(self.z["shape/" + name]))
        return torch.from_numpy((middle + half * (2.0 * uniform - 1.0)).astype(np.float32))

    def state(self, prefix=""):
        keys = [k.split("/", 1)[1] for k in self.z.files if k.startswith(("sd/", "shape/"))]
        return {k[len(prefix) :]: self.weight(k) for k in keys if k.startswith(prefix)}

    def near(self, ours, name):
        """Whether ``ours`` equals the file's output ``name``, in shape and to 2e-5 of its largest value."""
        expected = self.z["out/" + name]
        if tuple(ours.shape) != expected.shape:
            return False
        error = np.abs(ours.detach().numpy() - expected).max()
        print(f"{name}: off by {error}")  # shown where the test fails
        return error <= 2e-5 * self.hp("absmax/" + name)

    def assert_gradients(self, net, convert):
        """Assert that ``net`` has the file's gradients of its loss, converted, to 2e-4 of the largest of each entry."""
        prefix = "grad/loss/"
        keys = [key for key in self.z.files if key.startswith(prefix)]
        assert keys
        for key in keys:
            for name, wanted in convert({key.removeprefix(prefix): torch.from_numpy(self.z[key])}).items():
                ours = net.get_parameter(name).grad
                assert (ours - wanted).abs().max() <= 2e-4 * wanted.abs().max(), key


@pytest.fixture
def golden(vectors):
    """``golden(name)`` -> Golden."""
    return lambda name: Golden(vectors(name))
