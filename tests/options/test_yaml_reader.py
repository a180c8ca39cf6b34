"""Scalars by YAML 1.2's core schema, duplicate keys, lines, and what is told of files that cannot be read."""

import os
from pathlib import Path

import pytest

from kdsr_arch.errors import OptionErrors, UserError
from kdsr_arch.options import load_yaml, parse_value
from kdsr_arch.options.yaml_reader import in_one_line, parse_document, read_document, write_values
from tests.helpers.messages import refuses

# the examples of https://yaml.org/spec/1.2.2/#103-core-schema and BasicSR's forms
SCALARS = [
    ("1e-4", 1e-4), ("1E3", 1000.0), ("+12e03", 12000.0), ("-2E+05", -200000.0), ("!!float 1e-4", 1e-4),
    ("!!float 5", 5.0),
    ("0.", 0.0), (".5", 0.5), ("-0.0", 0.0), ("255.", 255.0), (".inf", float("inf")), ("-.Inf", float("-inf")),
    ("12", 12), ("-19", -19), ("0o7", 7), ("0x3A", 58), ("010", 10), ("true", True), ("False", False),
    ("~", None), ("null", None), ("", None), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2024-01-02", "2024-01-02"),
    ("1_000", "1_000"), ("e5", "e5"), (".", "."), ("'1e-4'", "1e-4"), ("[1, 2e1]", [1, 20.0]),
    ("{a: [x]}", {"a": ["x"]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars(text: str, value: object) -> None:
    got = parse_value(text)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text", ["1e3", "87e4", "0o17", "0x1F", "1:30", "no", "true", "", "~", "<<", "1.5", "\u00e9"])
def test_texts_are_written_as_texts(text: str) -> None:
    values = {"name": text, text: [text, 1e-5, None]}
    assert parse_document(write_values(values)).values == values
    assert parse_value(in_one_line(values)) == values


def test_nan() -> None:
    got = parse_value(".nan")
    assert got != got


def test_order_and_lines() -> None:
    document = parse_document("b: 1\na:\n  d: [7,\n    8]\n  c: 2\n")
    assert list(document.values) == ["b", "a"] and list(document.values["a"]) == ["d", "c"]
    assert document.lines == {"b": 1, "a": 2, "a.d": 3, "a.d.0": 3, "a.d.1": 4, "a.c": 5}
    assert (
        document.where("a.d.1") == " (line 4)"
        and document.where("a.c.x.y") == " (line 5)"
        and document.where("z") == ""
    )


def test_anchors_and_merge_keys() -> None:
    values = parse_document("base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\n").values
    assert values["more"] == {"x": 1, "y": 3}


def test_every_repeated_key_is_told() -> None:
    with pytest.raises(OptionErrors) as caught:
        parse_document("a: 1\ntrain: {lr: 1, lr: 2}\na: 2\n")
    assert caught.value.faults == ["train.lr: stands twice (lines 2 and 2)", "a: stands twice (lines 1 and 3)"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: a\ntrain:\n  lr: 1: 2\n", 3, "mapping values are not allowed"),
        ("a: [1, 2\nb: 3\n", 2, "expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "cannot start any token"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "could not determine a constructor"),
        ("a: !!float abc\n", 1, "is no number"),
    ],
)
def test_syntax_errors_show_the_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_document(path)
    message = str(caught.value)
    assert f"{path}, line {line}:" in message and words in message
    assert text.splitlines()[line - 1] in message


@pytest.mark.parametrize(("text", "name"), [("", "empty"), ("- 1\n- 2\n", "list"), ("just words\n", "mapping")])
def test_files_that_are_no_options(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    with refuses(path, name):
        load_yaml(path)


def test_missing_file_names_near_ones(tmp_path: Path) -> None:
    (tmp_path / "train_std.yml").write_text("a: 1")
    with refuses(tmp_path / "train_st.yml", near="train_std.yml"):
        load_yaml(tmp_path / "train_st.yml")
    with refuses(tmp_path / "no" / "a.yml", tmp_path / "no"):
        load_yaml(tmp_path / "no" / "a.yml")


def test_unreadable_files(tmp_path: Path) -> None:
    with refuses(tmp_path, "folder"):
        load_yaml(tmp_path)
    (tmp_path / "a.yml").write_bytes(b"\xff\xfe\x00\x81")
    with refuses(tmp_path / "a.yml", "UTF-8"):
        load_yaml(tmp_path / "a.yml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text("a: 1")
    path.chmod(0)
    with refuses(path, "permission"):
        load_yaml(path)
