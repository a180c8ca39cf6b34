"""A model card of a finished run: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import kdsr_arch
from kdsr_arch.bench.run import read_log
from kdsr_arch.errors import UserError
from kdsr_arch.evaluate.results import format_value, markdown_table
from kdsr_arch.files import read_json
from kdsr_arch.train.history import logged_number

_NOT_METRICS = ("kind", "iter", "dataset", "protocol")


@dataclass(frozen=True)
class Measured:
    """What a run reached on one data set: the means by metric, how they were measured, and when (None: a test)."""

    dataset: str
    protocol: str
    values: dict[str, float]
    iteration: int | None


@dataclass(frozen=True)
class RunFacts:
    """What a run's folder tells.

    Attributes:
        name: the folder's name.
        options: the option file as text, and as values.
        measured: one entry a data set: of `kdsr test` where it was run, else of the last validation.
        weights: the newest file of the student, or None.
    """

    name: str
    text: str
    options: dict[str, Any]
    measured: list[Measured]
    weights: Path | None


def read_run(folder: Path) -> RunFacts:
    """Collect the facts of experiments/NAME (and results/NAME beside it).

    Raises:
        UserError: no such run, none or several option files in it, or nothing measured.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; name a folder such as experiments/NAME")
    files = sorted(folder.glob("*.yml"))
    if len(files) != 1:
        raise UserError(f"{folder}: holds {len(files)} option files (.yml); a run has one")
    from kdsr_arch.options import load_yaml

    options = load_yaml(files[0])
    measured = _tested(folder) or _validated(folder)
    if not measured:
        raise UserError(f"{folder}: nothing was measured: no validation in history.jsonl, no results of kdsr test")
    lines = files[0].read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not _about_the_machine(line)).strip()
    return RunFacts(folder.resolve().name, text, options, measured, _newest_weights(folder / "models"))


def _about_the_machine(line: str) -> bool:
    """The head that training writes above the copied options: time and command line with this machine's paths."""
    return line.startswith(("# GENERATE TIME", "# CMD:", "# /"))


def _tested(folder: Path) -> list[Measured]:
    path = folder.resolve().parent.parent / "results" / folder.resolve().name / "results.json"
    if not path.is_file():
        return []
    try:
        held = read_json(path, dict, "test again")["results"]
        return [Measured(r["dataset"], r["protocol"], {k: float(v) for k, v in r["mean"].items()}, None) for r in held]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise UserError(f"{path}: no results of kdsr test; test again") from None


def _validated(folder: Path) -> list[Measured]:
    last: dict[str, Measured] = {}
    for record in read_log(folder / "history.jsonl"):
        if record.get("kind") == "val":
            found = {key: logged_number(value) for key, value in record.items() if key not in _NOT_METRICS}
            values = {key: value for key, value in found.items() if value is not None}
            name = str(record.get("dataset"))
            last[name] = Measured(name, str(record.get("protocol", "")), values, record["iter"])
    return list(last.values())


def _newest_weights(folder: Path) -> Path | None:
    weights = [path for path in folder.glob("net_g_*") if path.suffix in (".pth", ".safetensors")]
    latest = [path for path in weights if path.stem == "net_g_latest"]
    numbered = [path for path in weights if path.stem.removeprefix("net_g_").isdigit()]
    return next(iter(latest), max(numbered, key=lambda path: int(path.stem.rpartition("_")[2]), default=None))


def render(run: RunFacts, controls: Sequence[RunFacts], licence: str) -> str:
    """The card's text.

    Args:
        run: the student that is published.
        controls: runs to compare with: the same student alone, other methods, the teacher.
        licence: of the weights, as Hugging Face names it ('apache-2.0').
    """
    parts = [f"---\n{_front_matter(run, licence)}---", f"# {run.name}", _summary(run), "## Results",
             _results(run, controls), "## Use", _use(run), "## Training", _training(run.options),
             f"## Option file\n\n```yaml\n{run.text}\n```"]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _front_matter(run: RunFacts, licence: str) -> str:
    scale, network = run.options.get("scale"), run.options["network_g"]["type"]
    metrics = list(dict.fromkeys(name for held in run.measured for name in held.values))
    task = {"type": "image-to-image", "name": f"super-resolution x{scale}"}
    results = [{"task": task, "dataset": {"name": held.dataset, "type": held.dataset},
                "metrics": [{"type": name, "value": round(value, 4), "name": f"{name} ({held.protocol})"}
                            for name, value in held.values.items()]} for held in run.measured]  # fmt: skip
    content = {
        "license": licence, "library_name": "kdsr", "pipeline_tag": "image-to-image",
        "tags": ["super-resolution", "knowledge-distillation", network, f"x{scale}"], "metrics": metrics,
        "model-index": [{"name": run.name, "results": results}],
    }  # fmt: skip
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _summary(run: RunFacts) -> str:
    opt = run.options
    teachers = [spec["type"] for key, spec in sorted(opt.items()) if key.startswith("network_t") and spec]
    taught = f"taught by {' and '.join(teachers)}" if teachers else "trained without a teacher"
    return f"{_network(opt['network_g'])}, x{opt.get('scale')}, {taught}, with KDSR {kdsr_arch.__version__}."


def _network(spec: Mapping[str, Any]) -> str:
    keywords = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "type")
    return f"{spec['type']} ({keywords})" if keywords else str(spec["type"])


def _results(run: RunFacts, controls: Sequence[RunFacts]) -> str:
    blocks = []
    for held in run.measured:
        metrics = list(held.values)
        rows = [[f"**{run.name}**", *(format_value(held.values[m], m) for m in metrics)]]
        for control in controls:
            other = next((m for m in control.measured if m.dataset == held.dataset), None)
            rows.append(_control_row(control.name, held, other))
        when = "by `kdsr test`" if held.iteration is None else f"validation at iteration {held.iteration:,}"
        protocol = held.protocol or "not recorded"
        blocks.append(
            f"### {held.dataset}\n\nProtocol: {protocol} ({when}).\n\n{markdown_table(['run', *metrics], rows)}"
        )
    if not controls:
        blocks.append(
            "No control run was given: how much of this the teacher is worth, compared with the same student "
            "trained alone, is not shown here."
        )
    return "\n\n".join(blocks)


def _control_row(name: str, held: Measured, other: Measured | None) -> list[str]:
    """The control's values, each with its distance from the run's; only what was measured alike is compared."""
    if other is None:
        return [f"{name} (control)", *("-" for _ in held.values)]
    if other.protocol != held.protocol:
        return [f"{name} (control, another protocol: {other.protocol})", *("-" for _ in held.values)]
    cells = []
    for metric, value in held.values.items():
        theirs = other.values.get(metric)
        cells.append("-" if theirs is None else f"{format_value(theirs, metric)} ({theirs - value:+.3f})")
    return [f"{name} (control)", *cells]


def _use(run: RunFacts) -> str:
    name = run.weights.name if run.weights else "net_g_latest.pth"
    network = yaml.safe_dump(run.options["network_g"], default_flow_style=True, width=10000).strip()
    lines = [
        f"kdsr upscale INPUT -o OUTPUT --weights {name} --network '{network}'",
        f"kdsr export {name} -o student.onnx --network '{network}'",
    ]
    text = "```\n" + "\n".join(lines) + "\n```"
    if run.weights is None:
        return text
    digest = hashlib.sha256(run.weights.read_bytes()).hexdigest()
    return f"{text}\n\n`{name}`: {run.weights.stat().st_size / 2**20:.2f} MiB, SHA-256 `{digest}`."


def _training(opt: Mapping[str, Any]) -> str:
    train = opt.get("train") or {}
    terms = {"pixel": train.get("pixel_opt"), **(train.get("distill_opt") or {})}
    rows = [[name, str(spec["type"]), str(spec.get("loss_weight", 1.0))] for name, spec in terms.items() if spec]
    data = (opt.get("datasets") or {}).get("train") or {}
    names = [part.get("name") for part in data.get("datasets") or [data]]
    length, seed = train.get("total_iter", "?"), opt.get("manual_seed", 0)
    facts = f"{length} iterations on {', '.join(map(str, names))}, seed {seed}."
    return f"{facts}\n\n{markdown_table(['term', 'loss', 'weight'], rows)}" if rows else facts
