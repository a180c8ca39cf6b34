"""What the tests of benches share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.helpers.benches import BASE


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    (tmp_path / "options").mkdir()
    (tmp_path / "options" / "base.yml").write_text(yaml.safe_dump(BASE))
    file = tmp_path / "options" / "bench.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "b",
                "base": "base.yml",
                "seeds": [1, 2],
                "budgets": [50, 100],
                "common": {"val.val_freq": 10},
                "rows": {"alone": {"network_t": None, "train.distill_opt": None}, "with": {}},
            }
        )
    )
    return file


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name the runs that a bench would train."""
    names: list[str] = []
    monkeypatch.setattr("kdsr_arch.bench.run.carry_out", lambda run, *_: names.append(run.label))
    return names
