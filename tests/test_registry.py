"""Looking registered classes up, checking their keywords, constructing them."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsr_arch import plugins, registry
from kdsr_arch.errors import OptionErrors, UserError
from kdsr_arch.options.components import dataset_keys
from tests.helpers.messages import refuses
from tests.helpers.plugins import forgotten, write_files


def _refusal(*args: Any) -> str:
    with pytest.raises(UserError) as error:
        registry.build(*args)
    return str(error.value)


def test_a_network_is_built_from_its_keywords() -> None:
    net = registry.build("network", {"type": "FSRCNN", "scale": 2}, "network_g")
    assert net(torch.rand(1, 1, 8, 8)).shape == (1, 1, 16, 16)


def test_arguments_by_position_come_first() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = registry.build("optimizer", {"type": "SGD", "lr": 0.5}, "train.optim_g", [weight])
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("kind", "spec", "key", "near"),
    [
        ("network", {"type": "FSRCN"}, "k.type", "'FSRCNN'"),
        ("network", {"type": "FSRCNN", "scle": 2}, "k.scle", "'scale'"),
        ("network", {"type": "FSRCNN", "scale": "two"}, "k.scale", "a number"),
        ("loss", {"type": "L1Loss", "loss_weigt": 2}, "k.loss_weigt", "'loss_weight'"),
        ("scheduler", {"type": "StepLR", "optimizer": 1}, "k.step_size", "missing"),
        ("network", {"type": ["FSRCNN"]}, "k.type", "no network"),
    ],
)
def test_a_fault_names_its_key_and_the_nearest_name(kind: str, spec: dict[str, Any], key: str, near: str) -> None:
    message = _refusal(kind, spec, "k")
    assert key in message
    assert near in message


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(OptionErrors) as error:
        registry.build("network", {"type": "FSRCNN", "scle": 2, "num_fet": 3}, "network_g")
    assert [fault.split(":")[0] for fault in error.value.faults] == ["network_g.scle", "network_g.num_fet"]


def test_a_constructor_that_refuses_is_told_in_one_sentence() -> None:
    assert _refusal("network", {"type": "FSRCNN", "scale": -1}, "network_g").startswith("network_g: FSRCNN refuses")


class TakesOneMapping:
    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg


class TakesAnything:
    def __init__(self, scale: int, **more: Any) -> None:
        self.scale, self.more = scale, more


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils.registry import DATASET_REGISTRY

    registry.names("data set")
    for cls in (TakesOneMapping, TakesAnything):
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, cls.__name__, cls)


@pytest.mark.usefixtures("datasets")
def test_a_constructor_of_one_mapping_gets_everything() -> None:
    spec = {"type": "TakesOneMapping", "depth": 3}
    assert registry.build("data set", spec, "k", offer={"phase": "val"}).cfg == {**spec, "phase": "val"}


@pytest.mark.usefixtures("datasets")
def test_a_constructor_of_any_keywords_gets_what_it_names_of_the_offer() -> None:
    made = registry.build("data set", {"type": "TakesAnything", "depth": 3}, "k", offer={"phase": "val", "scale": 2})
    assert (made.scale, made.more) == (2, {"depth": 3})


def test_basicsr_reads_nothing_of_its_open_keywords() -> None:
    """`keywords_of` relies on it."""
    for kind in ("network", "loss", "metric"):
        for name in registry.names(kind):
            thing = registry.lookup(kind, name)
            function = thing.__init__ if isinstance(thing, type) else thing
            rest = inspect.getfullargspec(function).varkw
            if registry.is_basicsr(thing) and rest:
                assert inspect.getsource(function).count(rest) == 1, f"{name} reads **{rest}"


def test_a_file_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a user has put into the package may need what is not installed, or take a name that is taken."""
    really = importlib.import_module

    def broken(name: str) -> Any:
        if name.endswith("edvr_arch"):
            raise ImportError("No module named 'einops'", name="einops")
        return really(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    with refuses("edvr_arch.py", "ImportError", "einops"):
        registry.register_all.__wrapped__()


def test_a_data_set_of_another_project_in_the_package_may_have_any_key() -> None:
    cls = type("Theirs", (), {"__init__": lambda self, opt: None, "__module__": "kdsr_arch.data.theirs_dataset"})
    assert dataset_keys(cls) is None
    assert "gt_size" in dataset_keys(registry.lookup("data set", "ImagePairDataset"))


def test_the_line_of_a_users_class_that_refuses_its_values_is_told(tmp_path: Path) -> None:
    text = """
        from torch import nn
        from kdsr_arch.registry import ARCH_REGISTRY

        @ARCH_REGISTRY.register()
        class Halved(nn.Module):
            def __init__(self, width=3):
                super().__init__()
                self.conv = nn.Conv2d(width, width, 3, groups=2)
    """
    write_files(tmp_path, {"halved_arch.py": textwrap.dedent(text)})
    with forgotten():
        for plugin in plugins.named("./halved_arch.py", [tmp_path], "imports"):
            plugins.load(plugin)
        said = _refusal("network", {"type": "Halved"}, "network_g")
    assert said.startswith("network_g: Halved refuses these values: in_channels must be divisible by groups")
    assert said.endswith(f"(ValueError in {tmp_path / 'halved_arch.py'}, line 9)")
