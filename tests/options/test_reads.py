"""Every documented option is read by something, and every option that is read is documented."""

import ast
import re

import pytest

from kdsr_arch import registry
from kdsr_arch.options import explain
from kdsr_arch.options.components import BASICSR_KEYS
from kdsr_arch.options.schema import Options, PathOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.options.section import Component, Section, section_classes
from tests.helpers import ROOT

KINDS = {
    "OptimizerOptions": "optimizer",
    "SchedulerOptions": "scheduler",
    "DatasetOptions": "data set",
    "LossOptions": "loss",
    "PixelOptions": "loss",
}


def _sections(section: type[Section] = Options) -> dict[str, type[Section]]:
    below = {}
    for field in section.model_fields.values():
        for child in section_classes(field.annotation):
            if child is not section:
                below |= _sections(child)
    return {section.__name__: section, **below}


def _attributes_read() -> set[str]:
    """The attributes that the package reads, without the rules of the schema, which only check them."""
    names = set()
    for file in (ROOT / "kdsr_arch").rglob("*.py"):
        if not re.fullmatch(r"schema\w*\.py|components\.py|section\.py|explain\.py", file.name):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            loads = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))
            names |= {node.attr for node in loads}
    return names


def _keywords_taken(kind: str) -> set[str]:
    """The keywords that some class of a kind takes, and the keys that BasicSR's data sets read."""
    things = [registry.lookup(kind, name) for name in registry.names(kind)]
    taken = {keyword for thing in things for keyword in registry.keywords_of(thing).parameters}
    return taken.union(*BASICSR_KEYS["data sets"].values()) if kind == "data set" else taken


SECTIONS = _sections()


@pytest.mark.parametrize("name", SECTIONS)
def test_every_documented_option_is_read(name: str) -> None:
    section = SECTIONS[name]
    of_models = {key.rpartition(".")[2] for keys in BASICSR_KEYS["models"].values() for key in keys}
    read = _attributes_read() | of_models
    handed = _keywords_taken(KINDS[name]) if name in KINDS else set()
    if issubclass(section, Component):
        handed = {keyword for keyword in handed if keyword not in section.own}
    if section is Options:  # `Options.networks` gives them
        handed = {key for key in section.model_fields if key.startswith("network_")}
    if section is PathOptions:  # `PathOptions.weights` reads them for each network
        handed = {key for key in section.model_fields if re.match("pretrain_network|param_key|strict_load", key)}
    assert [field for field in section.model_fields if field not in read | handed] == []


def test_every_keyword_of_our_data_sets_is_documented() -> None:
    """Attributes of sections that do not exist are found by mypy; these are handed over by name."""
    things = [registry.lookup("data set", name) for name in registry.names("data set")]
    ours = {
        keyword for thing in things if registry.is_ours(thing) for keyword in registry.keywords_of(thing).parameters
    }
    assert ours - {"phase"} <= set(DatasetOptions.model_fields)


@pytest.mark.parametrize("name", [*BASICSR_KEYS["data sets"], *BASICSR_KEYS["models"]])
def test_every_key_that_basicsr_reads_is_explained(name: str) -> None:
    keys = {**BASICSR_KEYS["data sets"], **BASICSR_KEYS["models"]}[name]
    assert all(key in explain(name) for key in keys)


def test_no_option_is_read_by_a_name_in_quotes() -> None:
    """Options stay typed: only the bridge to BasicSR's models makes a dict of them."""
    untyped = re.compile(r"\bopt(\[\"|\.get\(\")")
    faults = []
    for file in sorted((ROOT / "kdsr_arch").rglob("*.py")):
        if file.name == "bridge.py":
            continue
        lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        faults += [
            f"{file.relative_to(ROOT)}:{number}: {line.strip()}" for number, line in lines if untyped.search(line)
        ]
    assert faults == []
