"""What the README and the pages on extensions show works as it is shown."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.cli import build_parser
from tests.helpers import ROOT
from tests.helpers.networks import Image
from tests.helpers.options import make_task
from tests.helpers.plugins import forgotten

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = "\n".join([README, *((ROOT / "docs" / f"{page}.md").read_text() for page in ("plugins", "new_method"))])
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.S)
BLOCKS = {name.group(1): code for code in CODE if (name := re.search(r"class (\w+)", code))}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, type]]:
    """The classes of the pages' examples, imported from files."""
    classes = {}
    with forgotten():
        for name, code in BLOCKS.items():
            path = tmp_path_factory.mktemp("readme") / f"{name.lower()}.py"
            path.write_text(code)
            classes[name] = runpy.run_path(str(path))[name]
        yield classes


@pytest.mark.parametrize("name", BLOCKS)
def test_an_extension_takes_under_twenty_lines_of_code(name: str) -> None:
    lines = [line for line in BLOCKS[name].splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) < 20


def test_the_method_trains_the_student(shown) -> None:
    student, teacher = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8)
    shown["EdgeLoss"]()(student, teacher).backward()
    assert student.grad.abs().sum() > 0


def test_the_method_on_images_of_its_own_trains_the_student(shown) -> None:
    data = {"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)}
    task = make_task(Image(), None, {"distill_opt": {"negative": {"type": "InvertedLoss"}}}, data)
    task(data, 1).losses["l_negative"].backward()
    assert task.student.head.weight.grad.abs().sum() > 0


def test_the_test_of_the_method_passes(shown, tmp_path) -> None:
    test = next(code for code in CODE if "def test_edge_loss_by_hand" in code)
    path = tmp_path / "test_edge.py"
    path.write_text(f"import torch\n\n{test}")
    runpy.run_path(str(path), {"EdgeLoss": shown["EdgeLoss"]})["test_edge_loss_by_hand"]()


def test_the_network_declares_its_tap(shown) -> None:
    net = shown["Tiny"]()
    assert net(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)
    assert set(net.traits.taps.values()) <= set(dict(net.named_modules()))


def test_the_data_set_depends_on_the_generator_only(shown) -> None:
    data = shown["NoiseDataset"](gt_size=16, scale=4)
    first, second = (data.sample(3, np.random.default_rng(7)) for _ in range(2))
    assert first["lq"].shape == (3, 4, 4) and torch.equal(first["gt"], second["gt"])


def test_the_option_files_it_names_exist() -> None:
    for file in set(re.findall(r"options/[\w/]+\.yml", README)):
        assert (ROOT / file).is_file(), file


def test_the_commands_parse() -> None:
    for line in re.findall(r"^kdsr .*$", TEXT, re.M):
        words = shlex.split(line, comments=True)[1:]
        assert build_parser(words[0]).parse_args(words).command == words[0]


def test_the_yaml_blocks_are_yaml() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.S):
        assert isinstance(yaml.safe_load(block), dict)
