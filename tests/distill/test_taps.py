"""Recording taps: in-place operations, several fires, errors, nesting, autocast, compiled networks."""

import shutil

import pytest
import torch
from torch import nn

from kdsr_arch.distill.taps import Recorder, compile_network, resolve, stop_inplace
from kdsr_arch.infer.traits import Traits
from tests.helpers.messages import refuses

COMPILERS = ["eager", "aot_eager", *([pytest.param("inductor", marks=pytest.mark.slow)] if shutil.which("g++") else [])]


class Net(nn.Module):
    """Taps that stay, that an in-place activation alters, that `+=` alters, that fire twice, and that never fire."""

    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.skip = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 3, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.pair = Pair()
        self.breaks = breaks

    def forward(self, x):
        x = self.first(x)
        y = self.twice(self.twice(x))
        if self.breaks:
            torch._dynamo.graph_break()
        y = self.skip(y)
        y += x
        a, (b,) = self.pair(y)
        return self.last(a + b)


class Pair(nn.Module):
    def forward(self, x):
        return x * 2, [x + 1]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def by_hand(net, x):
    """What each tap is at the moment its module returns."""
    with torch.no_grad():
        first = net.first(x)
        raw1 = net.twice[0](first)
        raw2 = net.twice[0](raw1.relu())
        skip = net.skip(raw2.relu())
    return {"first": [first], "twice.0": [raw1, raw2], "skip": [skip]}


def check(taps, expected):
    for path, values in expected.items():
        assert len(taps[path]) == len(values)
        for got, want in zip(taps[path], values, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_taps_hold_what_the_module_returned_despite_inplace_operations(net):
    x = torch.rand(2, 3, 8, 8)
    recorder = Recorder(net, ["first", "twice.0", "skip"])
    for _ in range(3):  # the first pass learns, the later ones copy only what has to be
        with recorder as taps:
            net(x)
        check(taps, by_hand(net, x))
    assert recorder.copies == {"twice.0", "skip"}


def test_taps_that_stay_are_not_copied(net):
    seen = []
    handle = net.first.register_forward_hook(lambda m, i, o: seen.append(o))
    recorder = Recorder(net, ["first"])
    for _ in range(2):
        with recorder as taps:
            net(torch.rand(1, 3, 8, 8))
    handle.remove()
    assert taps["first"][0] is seen[-1]


def test_several_fires_are_a_list_and_tuples_are_flattened(net):
    with Recorder(net, ["twice.0", "pair", "first"]) as taps:
        net(torch.rand(1, 3, 8, 8))
    assert len(taps["twice.0"]) == 2
    assert isinstance(taps["pair"][0], tuple) and len(taps["pair"][0]) == 2
    assert taps["first"][0].shape == (1, 4, 8, 8)
    assert set(taps) == {"twice.0", "pair", "first"} and len(taps) == 3


def test_hooks_live_inside_the_with_only(net):
    with pytest.raises(ZeroDivisionError), Recorder(net, ["first", "skip"]):
        assert net.first._forward_hooks
        raise ZeroDivisionError
    assert not any(m._forward_hooks for m in net.modules())


def test_recorders_nest(net):
    x = torch.rand(1, 3, 8, 8)
    with Recorder(net, ["first"]) as outer, Recorder(net, ["first", "skip"]) as inner:
        net(x)
    check(outer, {"first": by_hand(net, x)["first"]})
    check(inner, {"skip": by_hand(net, x)["skip"]})
    recorder = Recorder(net, ["first"])
    with recorder:
        net(x)
        with pytest.raises(RuntimeError, match="already"), recorder:
            pass
    assert not net.first._forward_hooks


def test_wrong_paths_and_idle_taps_are_refused(net):
    with refuses("Net", "'frist'", near="first"):
        Recorder(net, ["frist"])
    with refuses("Net", "'unused'", "'first'"), Recorder(net, ["unused"]):
        net(torch.rand(1, 3, 8, 8))


def test_a_tap_that_becomes_altered_later_is_refused(net):
    net.twice[1].inplace = False
    recorder = Recorder(net, ["twice.0"])
    with recorder:
        net(torch.rand(1, 3, 8, 8))
    assert recorder.copies == frozenset()
    net.twice[1].inplace = True
    with refuses("Net", "'twice.0'", "in place"), recorder:
        net(torch.rand(1, 3, 8, 8))


def test_resolve_knows_paths_aliases_and_the_output(net):
    traits = Traits("image", 1, taps={"f_sr": "skip"})
    assert resolve(net, traits, "f_sr") == "skip"
    assert resolve(net, traits, "twice.0") == "twice.0"
    assert resolve(net, traits, "output") == "output"
    with refuses("Net", "'f_rs'", near="f_sr"):
        resolve(net, traits, "f_rs")


def test_inference_mode_and_autocast(net):
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode(), Recorder(net, ["twice.0"]) as taps:
        net(x)
    check(taps, {"twice.0": by_hand(net, x)["twice.0"]})
    with torch.autocast("cpu", dtype=torch.bfloat16), Recorder(net, ["first"]) as taps:
        net(x)
    assert taps["first"][0].dtype == torch.bfloat16


def test_stop_inplace_leaves_the_result(net):
    x = torch.rand(1, 3, 8, 8)
    before = net(x)
    stop_inplace(net)
    assert not net.twice[1].inplace
    torch.testing.assert_close(net(x), before)


@pytest.mark.parametrize("backend", COMPILERS)
@pytest.mark.parametrize("breaks", [False, True], ids=["whole", "graph break"])
def test_compiled_networks_are_recorded_without_recompiling(backend, breaks):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    torch.manual_seed(0)
    net, x = Net(breaks), torch.rand(1, 3, 8, 8)
    recorder = Recorder(net, ["first", "twice.0", "skip"])
    with recorder:
        net(x)
    counter = CompileCounterWithBackend(backend)
    compiled = compile_network(net, backend=counter)
    compiled(x)  # a graph without taps comes first: it must not serve the calls that record
    graphs = []
    for _ in range(3):
        x = torch.rand(1, 3, 8, 8)
        with recorder as taps:
            y = compiled(x)
        check(taps, by_hand(net, x))
        (y.sum() + taps["skip"][0].sum()).backward()
        torch.testing.assert_close(compiled(x), y)
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[-1]
    assert net.skip.weight.grad.abs().sum() > 0
