"""A file of `kdsr bench` and the single runs that it stands for, each with an option file of its own.

A bench file names one base option file and, per row, the options that differ from it; docs/bench.md explains its keys.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from kdsr_arch.errors import OptionErrors, UserError, nearest
from kdsr_arch.io import write_bytes
from kdsr_arch.options import load_yaml
from kdsr_arch.options.documents import set_option
from kdsr_arch.options.load import plugins_of
from kdsr_arch.options.section import Count, PlainName, Positive, Section, parse_section
from kdsr_arch.options.yaml_reader import Document, describe, read_document
from kdsr_arch.plugins import Plugin

Overrides = dict[str, Any]


def _each_once(numbers: list[int]) -> list[int]:
    """Refuse a number that stands twice: the same run would count as two."""
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise ValueError(f"{twice[0]} stands twice; the same run would count as two")
    return numbers


class BeforeOptions(Section):
    """A training before the rows, such as that of their teacher."""

    base: str
    iterations: Positive
    change: Overrides | None = None
    seed: Count = 0


class TeacherCacheOptions(Section):
    """The teacher's store that `kdsr cache-teacher` fills before the rows."""

    taps: list[str] = []
    crops: Count = 0
    frames: Count = 0
    pool: Positive = 1


class PublishedOptions(Section):
    """Rows in the order of a published table, the worst first, and the source of that table."""

    order: list[PlainName] = Field(min_length=2)
    source: str


class BenchOptions(Section):
    """The keys of a bench file; docs/bench.md explains them."""

    name: PlainName
    base: str
    before: dict[PlainName, BeforeOptions] | None = None
    teacher_cache: TeacherCacheOptions | None = None
    tested: dict[PlainName, Overrides] | None = None
    seeds: Annotated[list[Count], AfterValidator(_each_once)] = Field(default=[0], min_length=1)
    budgets: Annotated[list[Positive], AfterValidator(_each_once), AfterValidator(sorted)] = []
    continued: bool = False
    jobs: Positive = 1
    threads: Positive = 1
    common: Overrides | None = None
    rows: dict[PlainName, Overrides | None] = {}
    against: list[PlainName] = []
    published: PublishedOptions | None = None
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
        """The run's name in messages."""
        return f"{self.row}, seed {self.seed}, {self.length} iterations" if self.length else f"{self.row}, tested"

    @property
    def command(self) -> list[str]:
        """The kdsr command that runs it."""
        options = ["-opt", str(self.options)]
        return ["train", *options, "--auto_resume"] if self.length else ["test", *options]

    @property
    def marker(self) -> Path:
        """The file of the run's outcome, written at its end: a run that is prolonged rewrites its history."""
        return self.experiment / f"bench_{self.length}.json"

    @property
    def seconds(self) -> Path:
        """The file of what the stretches of a training took."""
        return self.experiment / "bench_seconds.json"

    @property
    def taken(self) -> Path:
        """The file of what an earlier table tells of it."""
        return self.options.parent.parent / "taken" / f"{self.options.stem}.json"


def read_bench(path: Path) -> BenchOptions:
    """Read and check a bench file.

    Raises:
        UserError: the file is missing, not YAML, lacks a key, has an unknown one, or one name for two things;
            neither rows with budgets nor `tested`.
    """
    bench, faults = parse_section(BenchOptions, load_yaml(path))
    if faults:
        raise OptionErrors([f"{key}: {sentence}" for key, sentence in faults], str(path))
    if bool(bench.rows) != bool(bench.budgets) or not (bench.rows or bench.tested):
        raise UserError(f"{path}: nothing to do; it needs rows with budgets, or tested, or both")
    names = [*(bench.before or {}), *(bench.tested or {}), *bench.rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: '{twice[0]}' names two of before, tested and rows; the table needs a name for each")
    folders: dict[str, str] = {}
    for name in names:
        if (other := folders.setdefault(_file_name(name), name)) != name:
            raise UserError(f"{path}: '{other}' and '{name}' are one name as files ({_file_name(name)}); rename one")
    named = {"against": bench.against, "published.order": bench.published.order if bench.published else []}
    for key, name in ((key, name) for key, names in named.items() for name in names):
        if name not in bench.rows:
            raise UserError(f"{path}: {key} names no row '{name}'{nearest(name, list(bench.rows))}")
    return bench


def override(options: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Copy ``options`` with dotted keys replaced; a value of None removes the key."""
    result = copy.deepcopy(dict(options))
    for dotted, value in (changes or {}).items():
        set_option(result, dotted.split("."), copy.deepcopy(value), f"the override '{dotted}'")
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


class Plan:
    """The runs of a bench file. To list them writes their option files, under experiments/bench/NAME/options.

    Args:
        file: the bench file.
        root: the project's folder: experiments/ and results/ go there.
        imports: modules that every run imports beside those of its base.

    Raises:
        UserError: the bench file is unsound.
    """

    def __init__(self, file: Path, root: Path, imports: Sequence[Plugin] = ()) -> None:
        self.file, self.root, self.bench, self.imports = file, root, read_bench(file), imports
        self.store = Path("experiments", "bench", self.bench.name, "teacher.lmdb")
        self._common = self.bench.common or {}

    def runs(self) -> list[Run]:
        """List all runs: what comes before the rows, what is only tested, and the rows."""
        return [*self.before(), *self.tested(), *self.rows()]

    def before(self) -> list[Run]:
        """List the trainings that come before the rows, in the order of the file."""
        runs = []
        for name, spec in (self.bench.before or {}).items():
            changes, length = {**self._common, **(spec.change or {})}, spec.iterations
            options = self._trained(self._base(spec.base), changes, name, length)
            runs.append(self._run(options, name, spec.seed, length, length, label=name, reference=True))
        return runs

    def store_command(self) -> list[str] | None:
        """Return the kdsr command that fills the teacher's store; None where the bench wants none."""
        spec = self.bench.teacher_cache
        if spec is None:
            return None
        file = self._write(self._changed(self._base(self.bench.base), self._common), "teacher_cache")
        sizes = [text for key in ("crops", "frames", "pool") for text in (f"--{key}", str(getattr(spec, key)))]
        return ["cache-teacher", "-opt", str(file), "-o", str(self.store), *sizes, "--no-measure", "--taps", *spec.taps]

    def tested(self) -> list[Run]:
        """List what is only tested, on the rows' validation sets: without the base's training, teacher and weights."""
        common = self._changed(self._base(self.bench.base), self._common)
        datasets = common.get("datasets")
        options: dict[str, Any] = {
            key: common[key] for key in ("model_type", "scale", "num_gpu", "val", "imports") if key in common
        }
        sets = datasets.items() if isinstance(datasets, dict) else ()
        options["datasets"] = {key: value for key, value in sets if key.startswith("val")}
        return [
            self._run(self._changed(options, changes), name, None, 0, 0, label=name, reference=True)
            for name, changes in (self.bench.tested or {}).items()
        ]

    def rows(self) -> list[Run]:
        """List one run per budget, seed and row.

        Raises:
            UserError: `continued` with a learning rate that is not constant.
        """
        base, runs, rows = self._base(self.bench.base), [], self._rows()
        for budget, seed, (row, same, changes, extra) in itertools.product(self.bench.budgets, self.bench.seeds, rows):
            length = budget + (extra if isinstance(extra, int) else round(extra * budget))
            options = self._trained(base, changes, row, length)
            if self.bench.continued and options["train"].get("scheduler"):
                wanted = "a constant learning rate; add `train.scheduler: null` to common"
                raise UserError(f"{self.file}: continued: true needs {wanted}")
            if options["train"].get("patience"):
                raise self._fault(row, "train.patience ends each run elsewhere; set it to null in common")
            label = f"{same}_s{seed}" if self.bench.continued else f"{row}_s{seed}_{budget}"
            file_label = f"{label}_{length}" if self.bench.continued else label
            runs.append(self._run(options, row, seed, budget, length, label=label, file_label=file_label))
        return runs

    def _rows(self) -> list[tuple[str, str, Overrides, int | float]]:
        """List per row: name, first row with the same changes, these changes, iterations or share beyond the budget."""
        rows: list[tuple[str, str, Overrides, int | float]] = []
        first_with: dict[str, str] = {}
        stored = {"datasets.train.teacher_cache": str(self.store)} if self.bench.teacher_cache else {}
        for row, given in self.bench.rows.items():
            changes = {**self._common, **stored, **(given or {})}
            extra = changes.pop("extra_iter", 0)
            share = isinstance(extra, float) and 0 < extra < 1
            if not share and (not isinstance(extra, int) or isinstance(extra, bool) or extra < 0):
                wanted = "a whole number of iterations, or a share of the budget below 1"
                raise self._fault(row, f"extra_iter must be {wanted}, not {describe(extra)}")
            rows.append((row, first_with.setdefault(yaml.safe_dump(changes), row), changes, extra))
        return rows

    def _changed(self, options: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Do what `override` does, but add to `imports`: the base needs its own."""
        result, before = override(options, changes), options.get("imports")
        if isinstance(before, list):
            named = result.get("imports") or []
            more = named if isinstance(named, list) else [named]
            result["imports"] = [*before, *(entry for entry in more if entry not in before)]
        return result

    def _base(self, name: str) -> dict[str, Any]:
        path = (self.file.parent / name).resolve()
        document = read_document(path)
        self._name_imports(document, path)
        return document.values

    def _name_imports(self, document: Document, path: Path) -> None:
        """Write into `imports` what options of a file bring in, so that they do from another file as well."""
        found = [*self.imports, *plugins_of(document, path, self.root)]
        if found:
            document.values["imports"] = list(dict.fromkeys(plugin.text for plugin in found))

    def _fault(self, row: str, sentence: str) -> UserError:
        return UserError(f"bench {self.bench.name}, {row}: {sentence}")

    def _trained(self, base: dict[str, Any], changes: Overrides, row: str, length: int) -> dict[str, Any]:
        """Return the base with a row's changes, its schedule stretched to ``length`` iterations."""
        try:
            options = self._changed(base, changes)
            set_budget(options, length)
        except UserError as error:
            raise self._fault(row, str(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise self._fault(row, f"its options have no sound train section ({error!r})") from None
        return options

    def _run(
        self,
        options: dict[str, Any],
        row: str,
        seed: int | None,
        budget: int,
        length: int,
        *,
        label: str,
        file_label: str = "",
        reference: bool = False,
    ) -> Run:
        """Name the run bench/NAME/LABEL and write its option file."""
        options["name"] = f"bench/{self.bench.name}/{_file_name(label)}"
        if seed is not None:
            options["manual_seed"] = seed
        file = self._write(options, _file_name(file_label or label))
        folder = self.root / ("experiments" if length else "results") / options["name"]
        return Run(row, seed or 0, budget, length, file, folder, reference)

    def _write(self, options: dict[str, Any], label: str) -> Path:
        self._name_imports(Document(options, str(self.file)), self.file)  # those of a row
        file = self.root / "experiments" / "bench" / self.bench.name / "options" / f"{label}.yml"
        write_bytes(file, yaml.safe_dump(options, sort_keys=False).encode())
        return file


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
