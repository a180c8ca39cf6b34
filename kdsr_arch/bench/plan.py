"""What a file of `kdsr bench` asks for, as single runs with an option file each.

A bench file names one base option file and, per row, what differs from it::

    name: std_demo
    base: ../train_std.yml
    seeds: [0, 1, 2]
    budgets: [500, 2000]            # total_iter of the runs
    jobs: 2                         # runs side by side
    threads: 1                      # CPU threads of each run
    common: {val.val_freq: 100000}  # overrides of every row: dotted keys, null removes a key
    rows:
      alone:  {network_t: null, train.distill_opt: null}
      output: {train.distill_opt: {output: {type: L1Loss, loss_weight: 1.0}}}
      std:    {}

A teacher that the rows need is trained first, once, by `before`; `common` holds for it as well::

    before:
      teacher: {base: ../train_srkd_teacher.yml, iterations: 12000, change: {train.amp: bf16}}

Its weights are experiments/bench/NAME/teacher/models/net_g_latest.pth. What it makes of the training
images can be stored once, for every row to read (`kdsr cache-teacher`, on the base with `common`), in
experiments/bench/NAME/teacher.lmdb. All rows then draw the same crops, the student alone too; a row with
`datasets.train.teacher_cache: null` runs its teacher itself::

    teacher_cache: {taps: [block2, block4], windows: 16}

What stands beside the rows without training is `tested`, on their validation sets; nothing of
the base's training, teacher and weights holds for it::

    tested:
      bicubic: {network_g: {type: Bicubic, scale: 4}}

A file may consist of that alone. With `continued: true` each row and seed is one
run, whose validations are read off at every budget and which a further budget prolongs: the learning rate must then be
constant, else the shorter budgets would be judged in mid-schedule. A row's `extra_iter` gives it that many iterations
more than the budget: the control with as much computing as a method that trains a teacher of its own. With
`continued`, a row that differs from an earlier one by that alone is the same run, read off later. Where a published
table has an order, the tables say whether it is found::

    published: {order: [alone, output, std], source: 'A, table 2'}
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from kdsr_arch.errors import OptionErrors, UserError, nearest
from kdsr_arch.options.faults import schema_faults
from kdsr_arch.options.types import Count, PlainName, Positive, Section
from kdsr_arch.options.yaml_reader import describe


class _Before(Section):
    """What is trained once before the rows."""

    base: str
    iterations: Positive
    change: dict[str, Any] | None = None
    seed: Count = 0


class _TeacherCache(Section):
    """What `kdsr cache-teacher` stores before the rows; its text says what `windows` are."""

    taps: list[str] = []
    windows: Count = 0


class _Published(Section):
    """Rows in the order of a published table, the worst first, and where that is."""

    order: list[PlainName] = Field(min_length=2)
    source: str


class BenchOptions(Section):
    """The keys of a bench file; the module's text says what they mean."""

    name: PlainName
    base: str
    before: dict[PlainName, _Before] | None = None
    teacher_cache: _TeacherCache | None = None
    tested: dict[PlainName, dict[str, Any]] | None = None
    seeds: list[Count] = Field(default=[0], min_length=1)
    budgets: list[Positive] = []
    continued: bool = False
    jobs: Positive = 1
    threads: Positive = 1
    common: dict[str, Any] | None = None
    rows: dict[PlainName, dict[str, Any] | None] = {}
    published: _Published | None = None
    note: str = ""


@dataclass(frozen=True)
class Run:
    """One training of the bench, or the stretch of one up to a budget; or one test.

    Attributes:
        budget: what the table calls it; `length` are the iterations that it trains, 0 for a test.
        experiment: the folder that the run fills.
        reference: no row: it stands beside the rows at every budget.
    """

    row: str
    seed: int
    budget: int
    length: int
    options: Path
    experiment: Path
    reference: bool = False

    @property
    def label(self) -> str:
        return f"{self.row}, seed {self.seed}, {self.length} iterations" if self.length else f"{self.row}, tested"

    @property
    def command(self) -> list[str]:
        """What of `kdsr` carries it out."""
        options = ["-opt", str(self.options)]
        return ["train", *options, "--auto_resume"] if self.length else ["test", *options]

    @property
    def marker(self) -> Path:
        """What the run came to, written once it is there: a run that goes on rewrites its history."""
        return self.experiment / f"bench_{self.length}.json"


def read_bench(path: Path) -> dict[str, Any]:
    """Read and check a bench file.

    Raises:
        UserError: the file is missing, not YAML, lacks a key, has an unknown one, or one name for two things;
            neither rows with budgets nor `tested`.
    """
    from kdsr_arch.options import load_yaml

    bench = load_yaml(path)
    if faults := schema_faults(BenchOptions, bench):
        raise OptionErrors([f"{key}: {sentence}" for key, sentence in faults], str(path))
    whole = BenchOptions.model_validate(bench).model_dump()
    named = {key: whole[key] or {} for key in ("common", "before", "tested")}
    if bool(whole["rows"]) != bool(whole["budgets"]) or not (whole["rows"] or whole["tested"]):
        raise UserError(f"{path}: nothing to do; it needs rows with budgets, or tested, or both")
    names = [name for key in ("before", "tested", "rows") for name in whole[key] or {}]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: '{twice[0]}' names two of before, tested and rows; the table needs a name for each")
    for name in (whole["published"] or {}).get("order", []):
        if name not in whole["rows"]:
            raise UserError(f"{path}: published.order names no row '{name}'{nearest(name, list(whole['rows']))}")
    return {**whole, **named, "budgets": sorted(whole["budgets"])}


def override(options: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    """A copy of ``options`` with dotted keys replaced; a value of None removes the key."""
    result = copy.deepcopy(options)
    for dotted, value in (changes or {}).items():
        *parents, last = dotted.split(".")
        node = result
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"the override '{dotted}': '{part}' is not a mapping, so nothing below it can be set")
        if value is None:
            node.pop(last, None)
        else:
            node[last] = copy.deepcopy(value)
    return result


def set_budget(options: dict[str, Any], budget: int) -> None:
    """Set `train.total_iter` and stretch what is counted in iterations with it: cosine periods, milestones, stages.

    Warm-ups and ramps of terms are left as they are: a method's start does not depend on how long it goes on.
    """
    train = options["train"]
    factor = budget / train["total_iter"]
    train["total_iter"] = budget
    scheduler = train.get("scheduler") or {}
    for key in ("periods", "milestones", "restarts"):
        if key in scheduler:
            scheduler[key] = [round(value * factor) for value in scheduler[key]]
    for stage in train.get("stages") or ():
        stage["iters"] = round(stage["iters"] * factor)


def plan_before(bench: dict[str, Any], path: Path, root: Path) -> list[Run]:
    """Write the option files of what is trained first and list these runs, in the order of the file."""
    runs = []
    for name, spec in bench["before"].items():
        changes = {**bench["common"], **(spec.get("change") or {})}
        runs.append(
            _plan(
                bench,
                _base(spec, path),
                changes,
                root,
                row=name,
                seed=int(spec.get("seed", 0)),
                budget=spec["iterations"],
                length=spec["iterations"],
                label=name,
                reference=True,
            )
        )
    return runs


@dataclass(frozen=True)
class StoreRun:
    """The making of a store of what the teacher makes of the training images.

    Attributes:
        command: what of `kdsr` makes it.
        options: the option file that it is made from.
        path: where it will be.
    """

    command: list[str]
    options: Path
    path: Path


def plan_teacher_cache(bench: dict[str, Any], path: Path, root: Path) -> StoreRun | None:
    """Write the option file that the store is made from; None where the bench wants none."""
    spec = bench["teacher_cache"]
    if not spec:
        return None
    file = _write_options(override(_base(bench, path), bench["common"]), bench, "teacher_cache", root)
    store = _store(bench)
    command = ["cache-teacher", "-opt", str(file), "-o", str(store), "--windows", str(spec["windows"]), "--no-measure"]
    return StoreRun([*command, "--taps", *spec["taps"]], file, root / store)


def _store(bench: dict[str, Any]) -> Path:
    return Path("experiments", "bench", bench["name"], "teacher.lmdb")


def plan_tested(bench: dict[str, Any], path: Path, root: Path) -> list[Run]:
    """Write the option files of what is only tested, and list these tests."""
    common = override(_base(bench, path), bench["common"])
    datasets = common.get("datasets")
    sets = {k: v for k, v in datasets.items() if k.startswith("val")} if isinstance(datasets, dict) else {}
    kept: dict[str, Any] = {key: common[key] for key in ("model_type", "scale", "num_gpu", "val") if key in common}
    runs = []
    for name, changes in bench["tested"].items():
        options = override({**kept, "datasets": sets}, changes)
        label = re.sub(r"[^\w.-]+", "_", name)
        options["name"] = f"bench/{bench['name']}/{label}"
        file = _write_options(options, bench, label, root)
        runs.append(Run(name, 0, 0, 0, file, root / "results" / options["name"], reference=True))
    return runs


def plan_runs(bench: dict[str, Any], path: Path, root: Path) -> list[Run]:
    """Write one option file per (row, seed, budget) under experiments/bench/NAME/options and list the runs.

    Raises:
        UserError: `continued` with a learning rate that is not constant.
    """
    base, runs, rows = _base(bench, path), [], _rows(bench)
    for budget in bench["budgets"]:
        for seed in bench["seeds"]:
            for row, same, changes, extra in rows:
                label = f"{same}_s{seed}" if bench["continued"] else f"{row}_s{seed}_{budget}"
                runs.append(
                    _plan(
                        bench,
                        base,
                        changes,
                        root,
                        row=row,
                        seed=seed,
                        budget=budget,
                        length=budget + extra,
                        label=label,
                    )
                )
                if bench["continued"] and override(base, changes)["train"].get("scheduler"):
                    raise UserError(
                        f"{path}: continued: true needs a constant learning rate; add `train.scheduler: null` to common"
                    )
    return runs


def _rows(bench: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], int]]:
    """Per row: its name, the first row with the same changes, these changes, and the iterations beyond the budget."""
    rows: list[tuple[str, str, dict[str, Any], int]] = []
    first_with: dict[str, str] = {}
    stored = {"datasets.train.teacher_cache": str(_store(bench))} if bench["teacher_cache"] else {}
    for row, given in bench["rows"].items():
        changes = {**bench["common"], **stored, **(given or {})}
        extra = _extra(changes, f"bench {bench['name']}, {row}")
        rows.append((row, first_with.setdefault(yaml.safe_dump(changes), row), changes, extra))
    return rows


def _extra(changes: dict[str, Any], where: str) -> int:
    """Takes `extra_iter` out of a row."""
    extra = changes.pop("extra_iter", 0)
    if not isinstance(extra, int) or isinstance(extra, bool) or extra < 0:
        raise UserError(f"{where}: extra_iter must be a whole number of iterations, not {describe(extra)}")
    return extra


def _base(spec: dict[str, Any], path: Path) -> dict[str, Any]:
    from kdsr_arch.options import load_yaml

    return load_yaml((path.parent / spec["base"]).resolve())


def _plan(
    bench: dict[str, Any],
    base: dict[str, Any],
    changes: dict[str, Any],
    root: Path,
    *,
    row: str,
    seed: int,
    budget: int,
    length: int,
    label: str,
    reference: bool = False,
) -> Run:
    safe = re.sub(r"[^\w.-]+", "_", label)
    name = f"bench/{bench['name']}/{safe}"
    try:
        options = override(base, changes)
        set_budget(options, length)
    except UserError as error:
        raise UserError(f"bench {bench['name']}, {row}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"bench {bench['name']}, {row}: its options have no sound train section ({error!r})") from None
    options["name"], options["manual_seed"] = name, seed
    file = _write_options(options, bench, f"{safe}_{length}" if bench["continued"] and not reference else safe, root)
    return Run(row, seed, budget, length, file, root / "experiments" / name, reference)


def _write_options(options: dict[str, Any], bench: dict[str, Any], label: str, root: Path) -> Path:
    folder = root / "experiments" / "bench" / bench["name"] / "options"
    file = folder / f"{label}.yml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from None
    return file
