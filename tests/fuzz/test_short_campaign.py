"""The short form of the campaign: hypothesis throws a few hundred changed inputs at every target."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kdsr_arch.errors import UserError
from tests.fuzz.guard import Finding, Guard
from tests.fuzz.target import Target
from tests.fuzz.targets import NAMES, load

SLOW = {"options_text", "options_values", "training_states"}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each target, if what makes its seeds is installed."""
    if request.param == "videos":
        pytest.importorskip("av", reason="needs the extra: pip install av")
    return request.param


def test_nothing_but_refusals(name: str, scratch: Path) -> None:
    target, guard = load(name), Guard(scratch)

    @settings(
        max_examples=60 if name in SLOW else 150,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(target.seeds()), st.integers(1, 3), st.randoms(use_true_random=False))
    def throw(data: bytes, changes: int, rng: Random) -> None:
        for _ in range(changes):
            data = target.change(data, rng)
        guard.judge(target, data)

    throw()


def test_the_first_seed_is_sound(name: str, scratch: Path) -> None:
    """A target that refuses everything would find nothing."""
    target, guard = load(name), Guard(scratch)
    assert guard.judge(target, target.seeds()[0]) == "accepted"
    for data in target.seeds()[1:]:
        guard.judge(target, data)


def _target(run) -> Target:
    return Target("own", "", lambda: [b"x"], run)


class TestTheGuardItself:
    """A guard that sees nothing would pass everything."""

    def judge(self, scratch: Path, run) -> str:
        with pytest.raises(Finding) as caught:
            Guard(scratch).judge(_target(run), b"x")
        return caught.value.kind

    def test_another_exception(self, scratch: Path) -> None:
        def run(data: bytes, folder: Path) -> None:
            raise KeyError("k")

        assert self.judge(scratch, run) == "exception"

    def test_a_write_outside(self, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        outside = tmp_path_factory.mktemp("outside") / "f"
        assert self.judge(scratch, lambda data, folder: outside.write_bytes(data)) == "write"

    def test_a_process(self, scratch: Path) -> None:
        import subprocess

        assert self.judge(scratch, lambda data, folder: subprocess.run(["true"], check=True)) == "process"

    def test_code_of_a_payload(self, scratch: Path) -> None:
        import pickle

        from tests.fuzz.payloads import hostile_pickles

        assert self.judge(scratch, lambda data, folder: pickle.loads(hostile_pickles()[0])) == "code"

    def test_an_empty_refusal(self, scratch: Path) -> None:
        def run(data: bytes, folder: Path) -> None:
            raise UserError(" ")

        assert self.judge(scratch, run) == "message"

    def test_a_write_inside_and_a_refusal_are_fine(self, scratch: Path) -> None:
        def run(data: bytes, folder: Path) -> None:
            (folder / "f").write_bytes(data)
            raise UserError("f: is no such file; make another")

        assert Guard(scratch).judge(_target(run), b"x") == "refused"
