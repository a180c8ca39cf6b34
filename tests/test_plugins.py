"""Modules from outside the package: which file an entry means, by which name it goes, what a broken one is told."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdsr_arch import cli, plugins, registry
from kdsr_arch.options import explain, json_schema
from kdsr_arch.plugins import beside, named
from tests.helpers.messages import missing, refuses
from tests.helpers.plugins import ARCH, FILES, LOSS, forgotten, write_files


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with forgotten():
        yield


def _bring_in(entry: str, *folders: Path) -> list[str]:
    """Import what an entry means; return the recorded files that installed plug-ins do not bring."""
    files = registry.bring_in(named(entry, folders, "x"))
    return [file.name for file in files if file not in registry.register_all()]


# ----------------------------------------------------------------------------------------- what an entry means


@pytest.mark.parametrize(
    ("entry", "name", "file"),
    [
        ("./losses/own_loss.py", "", "losses/own_loss.py"),
        ("losses/own_loss.py", "", "losses/own_loss.py"),
        ("losses.own_loss", "losses.own_loss", "losses/own_loss.py"),
        ("mine", "mine", "mine/__init__.py"),
        ("./mine", "", "mine/__init__.py"),
    ],
)
def test_an_entry_is_a_file_a_module_or_a_folder(tmp_path: Path, entry: str, name: str, file: str) -> None:
    write_files(tmp_path, {**FILES, "mine/__init__.py": ""})
    plugin = named(entry, [tmp_path / "options", tmp_path], "x")[0]
    assert (plugin.name, plugin.file) == (name, tmp_path / file)


def test_the_first_folder_that_has_it_counts(tmp_path: Path) -> None:
    one, other = (write_files(tmp_path / name, {"edge.py": ""}) for name in ("one", "other"))
    assert named("./edge.py", [one, other], "x")[0].file == one / "edge.py"
    assert named("edge", [other, one], "x")[0].file == other / "edge.py"


def test_a_folder_without_init_gives_the_files_of_a_project_for_basicsr(tmp_path: Path) -> None:
    write_files(tmp_path / "theirs", FILES)
    found = {plugin.file for plugin in named("./theirs", [tmp_path], "x")}
    assert found == {tmp_path / "theirs" / name for name in FILES if "util" not in name}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("./edg.py", "'edge.py'"),
        ("./notes.txt", "notes.txt"),
        ("./empty", "__init__.py"),
        ("./a\0b/c.py", "c.py"),
        ("./" + "long/" * 999 + "c.py", "--import"),
        ("~nobody/c.py", "nobody"),
    ],
)
def test_what_is_no_module_is_refused(tmp_path: Path, entry: str, says: str) -> None:
    write_files(tmp_path, {"edge.py": "", "notes.txt": "", "empty/edge.py": ""})
    with refuses(says, "--import"):
        named(entry, [tmp_path], "--import")


@pytest.mark.parametrize("name", ["no_such_project.archs", "long" * 99, "a..b", "json.", "a\0b", "\ud800"])
def test_a_module_that_nobody_has_is_refused(tmp_path: Path, name: str) -> None:
    with refuses("imports of a.yml"):
        registry.bring_in(named(name, [tmp_path], "imports of a.yml"))


def test_files_that_name_no_registry_are_of_another_kind(tmp_path: Path) -> None:
    write_files(tmp_path, {"models/own_model.py": "import no_such_package", "archs/own_arch.py": ARCH})
    assert [plugin.file for plugin in beside([tmp_path], "x")] == [tmp_path / "archs" / "own_arch.py"]


# --------------------------------------------------------------------------------- the name by which a file goes


@pytest.mark.parametrize(
    ("file", "inits", "module"),
    [
        ("losses/own_loss.py", [], "losses.own_loss"),
        ("theirs/losses/own_loss.py", ["theirs"], "theirs.losses.own_loss"),
        ("theirs/deep/own.py", ["theirs", "theirs/deep"], "theirs.deep.own"),
        ("lib/own.py", [], "own"),
    ],
)
def test_a_file_goes_by_the_name_of_its_project(tmp_path: Path, file: str, inits: list[str], module: str) -> None:
    write_files(tmp_path, {file: LOSS, **{f"{folder}/__init__.py": "" for folder in inits}})
    assert f"{module.replace('.', '/')}.py" in _bring_in(f"./{file}", tmp_path)
    assert registry.lookup("loss", "OwnLoss").__module__ == module


def test_a_file_that_its_project_imports_too_runs_once(tmp_path: Path) -> None:
    """BasicSR's template scans its folders in their `__init__.py`."""
    scan = "import importlib\nimportlib.import_module('archs.own_arch')\n"
    write_files(tmp_path, {"archs/own_arch.py": ARCH, "archs/__init__.py": scan})
    files = registry.bring_in(beside([tmp_path], "x"))
    assert {file.name for file in files} >= {"archs/__init__.py", "archs/own_arch.py"}
    assert "OwnNet" in registry.names("network")


@pytest.mark.parametrize("taken", ["json", "sys", "pytest"])
def test_a_file_named_as_another_module_is_refused(tmp_path: Path, taken: str) -> None:
    write_files(tmp_path, {f"{taken}.py": LOSS})
    with refuses(tmp_path / f"{taken}.py", taken, "rename"):
        _bring_in(f"./{taken}.py", tmp_path)
    assert "OwnLoss" not in registry.names("loss")


def test_a_folder_whose_name_another_project_took_does_not_matter(tmp_path: Path) -> None:
    first = write_files(tmp_path / "a", {"archs/__init__.py": "", "archs/one_arch.py": ARCH})
    second = write_files(tmp_path / "b", {"archs/two_arch.py": ARCH.replace("OwnNet", "TwoNet")})
    registry.bring_in(beside([first], "x"))
    registry.bring_in(beside([second], "x"))
    assert {"OwnNet", "TwoNet"} <= set(registry.names("network"))


def test_the_record_of_a_file_is_as_good_as_the_file(tmp_path: Path) -> None:
    one, other = (write_files(tmp_path / name, {"archs/own_arch.py": ARCH}) for name in ("one", "other"))
    _bring_in("./archs/own_arch.py", one)
    assert _bring_in("./archs/own_arch.py", other) == ["archs/own_arch.py"]


def test_helpers_of_the_project_are_recorded(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    files = registry.bring_in(beside([tmp_path], "x"))
    assert {file.name for file in files} >= set(FILES)
    assert all(file.content.decode() == FILES[file.name] for file in files if file.name in FILES)


# ------------------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("import torch\nimport no_such_package\n", 2, ["ModuleNotFoundError", "no_such_package"]),
        ("import torch\n\ndef f(:\n", 3, ["SyntaxError"]),
        ("def f():\n    return 1 / 0\nf()\n", 2, ["ZeroDivisionError"]),
        ("import sys\nsys.exit(3)\n", 2, ["ends the program"]),
        (ARCH.lstrip().replace("OwnNet", "EDSR"), 4, ["network", "EDSR", "edsr_arch.py"]),
    ],
)
@pytest.mark.parametrize("way", ["imports", "beside", "--import"])
def test_a_broken_file_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, says: list[str], way: str
) -> None:
    file = tmp_path / "archs" / "own_arch.py"
    write_files(tmp_path, {"archs/own_arch.py": f"{text}# for ARCH_REGISTRY\n"})
    options = tmp_path / ("a.yml" if way == "beside" else "elsewhere/a.yml")
    write_files(options.parent, {"a.yml": "name: a\n" + "imports: [../archs/own_arch.py]\n" * (way == "imports")})
    flags = ["--import", str(file)] if way == "--import" else []
    assert cli.main(["check", "-opt", str(options), *flags]) == 2
    said = capsys.readouterr().err
    named_by = {"imports": f"imports of {options} (line 2)", "beside": "a.yml", "--import": "--import"}[way]
    assert missing(said, f"{file}, line {line}", named_by, *says) == []
    assert len(said.splitlines()) == 1 and "Traceback" not in said

    file.write_text(ARCH)  # mended: nothing is left of the first try
    _bring_in("./archs/own_arch.py", tmp_path)
    assert "OwnNet" in registry.names("network")


def test_a_project_whose_second_file_fails_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    write_files(tmp_path / "theirs", {"__init__.py": "from . import one, two", "one.py": ARCH, "two.py": "1 / 0"})
    with refuses("two.py, line 1"):
        _bring_in("theirs", tmp_path)
    assert "OwnNet" not in registry.names("network")
    write_files(tmp_path / "theirs", {"two.py": ""})
    _bring_in("theirs", tmp_path)
    assert "OwnNet" in registry.names("network")


# --------------------------------------------------------------------------------------------------- what knows them


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_files(tmp_path, FILES)
    registry.bring_in(beside([tmp_path], "x"))
    return tmp_path


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("kind", "name"),
    [("network", "OwnNet"), ("loss", "OwnLoss"), ("data set", "OwnDataset"), ("model", "OwnModel"),
     ("metric", "own_metric")],
)  # fmt: skip
def test_explanations_hints_and_schema_know_them(kind: str, name: str) -> None:
    assert name in explain(name)
    with refuses(near=name):
        registry.lookup(kind, f"{name}x")
    schema = json_schema(names=True)
    sections = {"network": "NetworkOptions", "loss": "TermOptions", "data set": "DatasetOptions"}
    place = schema["properties"]["model_type"]
    if kind != "model":
        place = schema["$defs"][sections.get(kind, "MetricOptions")]["properties"]["type"]
    assert name in place["anyOf"][0]["enum"] and place["anyOf"][1] == {"type": "string"} and "type" not in place


def test_a_class_without_source_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a notebook, made by `type`, or with a constructor that is not written in Python."""
    made = type("Made", (dict,), {"__module__": "__main__"})
    monkeypatch.setitem(registry.DATASET_REGISTRY._obj_map, "Made", made)
    assert registry.build("data set", {"type": "Made", "depth": 3}, "k") == {"depth": 3}

    class Opaque:
        __init__ = complex.__init__

    monkeypatch.setattr(
        registry.inspect, "signature", lambda *_: (_ for _ in ()).throw(ValueError("no signature found"))
    )
    assert registry.keywords_of(Opaque).open


# -------------------------------------------------------------------------------------------------- installed packages


def _install(folder: Path, module: str, text: str) -> None:
    info = {
        "METADATA": "Metadata-Version: 2.1\nName: my-project\nVersion: 1.2\n",
        "entry_points.txt": f"[kdsr.plugins]\nmine = {module}\n",
    }
    write_files(folder / "my_project-1.2.dist-info", info)
    write_files(folder / "my_project", {"__init__.py": "", "archs.py": text})


def test_an_installed_plug_in_is_there_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "my_project.archs", ARCH)
    monkeypatch.syspath_prepend(tmp_path)
    files = {file.name for file in registry.register_all.__wrapped__()}
    assert files >= {"my_project/archs.py"} and "OwnNet" in registry.names("network")


@pytest.mark.parametrize(
    ("module", "text", "says"),
    [
        ("my_project.archs", "\n1 / 0\n", ["my_project/archs.py, line 2", "ZeroDivisionError"]),
        ("my_project.arch", "", ["my_project.arch"]),
    ],
)
def test_a_broken_installed_plug_in_is_told_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str, says: list[str]
) -> None:
    _install(tmp_path, module, text)
    monkeypatch.syspath_prepend(tmp_path)
    with refuses("my-project 1.2", *says):
        registry.register_all.__wrapped__()


def test_no_plug_in_is_installed_where_the_tests_run() -> None:
    """Else the tests would not be those of this package."""
    assert not importlib.metadata.entry_points(group=plugins.ENTRY_POINTS)
