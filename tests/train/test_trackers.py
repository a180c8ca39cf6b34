"""Weights & Biases, played by a stand-in: started before anything is touched, and one run over all resumes."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from kdsr_arch.train import entry
from tests.helpers.messages import refuses

LOGGER = {"logger": {"wandb": {"project": "p"}}}


class Service:
    """What is asked of the package: `init` gives runs with the ids a, b, ..., unless one is asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.finished: list[str] = []
        self.fault: Exception | None = None

    def init(self, **given: Any) -> SimpleNamespace:
        if self.fault:
            raise self.fault
        self.asked.append(given)
        name = given.get("id", "abc"[len(self.asked) - 1])
        return SimpleNamespace(id=name, finish=lambda: self.finished.append(name))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)  # type: ignore[arg-type]
    return service


def test_a_service_that_does_not_start_leaves_the_earlier_run_where_it_is(service, load) -> None:
    entry.train(load())
    folder = load().folder
    service.fault = RuntimeError("api_key not configured (no-tty). call wandb.login(key=...)")
    with refuses("logger.wandb", "api_key", "wandb login", "WANDB_MODE=offline"):
        entry.train(load(**LOGGER))
    assert [path.name for path in folder.parent.glob("tiny*")] == ["tiny"]
    assert (folder / "models" / "net_g_latest.pth").exists()


def test_a_resume_goes_on_in_its_run_and_a_new_start_does_not(service, load) -> None:
    entry.train(load(**LOGGER))
    assert entry.train(load(**LOGGER, train={"total_iter": 10}), True) == 0
    entry.train(load(**LOGGER))
    asked = [(given.get("id"), given.get("resume")) for given in service.asked]
    assert asked == [(None, None), ("a", "allow"), (None, None)]
    assert service.finished == ["a", "a", "c"], "each training ends its run: the next of a sequence has its own"


def test_a_run_that_the_options_name_is_continued(service, load) -> None:
    entry.train(load(logger={"wandb": {"project": "p", "resume_id": "named"}}))
    assert service.asked[0]["id"] == "named"


def test_a_run_that_begins_from_another_experiments_state_is_one_of_its_own(service, load) -> None:
    entry.train(load(**LOGGER))
    entry.train(load(**LOGGER, name="other"))
    state = load().folder.with_name("other") / "training_states" / "4.state"
    entry.train(load(**LOGGER, path={"resume_state": str(state)}))
    assert [given.get("id") for given in service.asked] == [None, None, None]
