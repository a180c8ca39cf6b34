"""The tables of `kdsr bench`: mean and spread over seeds, per row, budget, data set and metric."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdsr_arch.bench.outcomes import Outcome
from kdsr_arch.bench.plan import BenchOptions, PublishedOptions
from kdsr_arch.infer.cost import where_run
from kdsr_arch.io import write_bytes
from kdsr_arch.records import markdown_table


def gains(group: Sequence[Outcome], plain: Sequence[Outcome]) -> list[float]:
    """Return the PSNR of a row over another's, seed by seed, each the mean over the data sets that both have.

    Equal seeds share initial weights and samples, so that their difference is steadier than either number.
    """
    pairs = [(_metrics(mine, theirs), _metrics(theirs, mine)) for mine, theirs in _equal_seeds(group, plain)]
    differences = [[a[key] - b[key] for key in a if key.endswith(" psnr") and key in b] for a, b in pairs]
    return [statistics.fmean(numbers) for numbers in differences if numbers]


def _equal_seeds(group: Sequence[Outcome], other: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    by_seed = {outcome.seed: outcome for outcome in other}
    return [(outcome, by_seed[outcome.seed]) for outcome in group if outcome.seed in by_seed]


def spread(numbers: list[float]) -> dict[str, Any]:
    """Return mean, sample standard deviation (0 for a single number) and the numbers themselves."""
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return {"mean": statistics.fmean(numbers), "std": deviation, "values": numbers}


def paired(differences: list[float]) -> dict[str, Any]:
    """Return the :func:`spread` of differences of pairs, and ``half``: how far their mean may be off.

    That is half of the 95 % interval of Student's t ("The probable error of a mean", Biometrika 1908); None where there
    is a single pair, which tells nothing.
    """
    from scipy.stats import t

    entry, count = spread(differences), len(differences)
    half = float(t.ppf(0.975, count - 1)) * entry["std"] / count**0.5 if count > 1 else None
    return {**entry, "half": half}


def spread_text(entry: Mapping[str, Any], digits: int, sign: str = "") -> str:
    """Write a :func:`spread` as "mean ± deviation", :func:`paired` differences as "mean ± half of their interval".

    A single value has neither, which is not the same as zero.

    Args:
        entry: the spread.
        digits: decimals.
        sign: '+' to show that of positive means as well.
    """
    mean = f"{entry['mean']:{sign}.{digits}f}"
    off = entry["half"] if "half" in entry else entry["std"]
    return f"{mean} ± {off:.{digits}f}" if len(entry["values"]) > 1 else mean


def summarize(outcomes: Sequence[Outcome], first: str, against: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return one record per (row, budget): the :func:`spread` of each data set's metrics.

    `gain` is the PSNR over that of the row ``first`` at the same budget, see :func:`gains` and :func:`paired`, `over`
    that row's name; `against` holds the same over each row of ``against``, `differences` each metric's.
    """
    groups: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.row, outcome.budget), []).append(outcome)
    records = []
    for (row, budget), group in groups.items():
        reference = group[0].reference
        others = {
            name: [] if reference or name == row else groups.get((name, budget), []) for name in (first, *against)
        }
        over = {name: _gain(group, other) for name, other in others.items()}
        record = _summary(row, budget, group) | {"over": first, "gain": over.pop(first), "against": over}
        record["differences"] = {name: _differences(group, others[name]) for name in against}
        records.append(record)
    return records


def _gain(group: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, Any] | None:
    differences = gains(group, other)
    return paired(differences) if differences else None


def _metrics(outcome: Outcome, beside: Outcome | None = None) -> dict[str, float]:
    """Return what was measured, as 'DATASET METRIC'; of what is compared with another's, by the same protocol only."""
    others = None if beside is None else {name: metrics.get("protocol") for name, metrics in beside.val.items()}
    return {
        f"{dataset} {metric}": value
        for dataset, metrics in outcome.val.items()
        if others is None or others.get(dataset) == metrics.get("protocol")
        for metric, value in metrics.items()
        if isinstance(value, int | float)
    }


def _differences(group: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return each metric of a row less that of another, :func:`paired` by seed."""
    pairs = [(_metrics(mine, theirs), _metrics(theirs, mine)) for mine, theirs in _equal_seeds(group, other)]
    keys = dict.fromkeys(key for mine, theirs in pairs for key in mine if key in theirs)
    return {key: paired([a[key] - b[key] for a, b in pairs if key in a and key in b]) for key in keys}


def _summary(row: str, budget: int, group: Sequence[Outcome]) -> dict[str, Any]:
    values: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for outcome in group:
        for name, value in _metrics(outcome).items():
            values.setdefault(name, []).append(value)
        for key, value in outcome.ratios.items():
            ratios.setdefault(key, []).append(value)
    seconds = [outcome.seconds for outcome in group if outcome.seconds]
    return {
        "row": row,
        "budget": budget,
        "seeds": len(group),
        "reference": group[0].reference,
        "metrics": {key: spread(numbers) for key, numbers in values.items()},
        "cost": next((outcome.cost for outcome in group if outcome.cost), None),
        "ratios": {key: statistics.fmean(numbers) for key, numbers in ratios.items()},
        "seconds": statistics.fmean(seconds) if seconds else None,
    }


def markdown(summary: Sequence[Mapping[str, Any]], *, command: str, protocol: str, note: str = "") -> str:
    """Write one Markdown table per budget; what was tested, or trained before the rows, stands in each."""
    rows = [record for record in summary if not record["reference"]]
    references = [record for record in summary if record["reference"] and record["metrics"]]
    first = rows[0]["over"] if rows else "-"
    said = " Mean ± sample standard deviation over the seeds; of gains, half of the paired 95 % t-interval."
    lines = [f"Protocol: {protocol}.{said if rows else ''}", "", f"Command: `{command}`", ""]
    lines += [note, ""] if note else []
    for budget in sorted({record["budget"] for record in rows}) or [0]:
        records = [*references, *(record for record in rows if record["budget"] == budget)]
        columns = sorted({key for record in records for key in record["metrics"]})
        against = list(rows[0]["against"]) if rows else []
        over = [f"psnr over '{name}'" for name in (first, *against)]
        header = ["row", "seeds", *columns, *over, "gradient ratios", "s/run"]
        lines += [f"### {budget:,} iterations", ""] if rows else []
        cells = [_cells(record, columns) for record in records]
        if not rows and any(record.get("cost") for record in records):
            header = ["network", *columns, *_cost_header(records)]
            cells = [[cell[0], *cell[2 : 2 + len(columns)], *_cost(r)] for cell, r in zip(cells, records, strict=True)]
        lines += [markdown_table(header, cells, numbers=False), ""]
        for name in against:
            lines += _over(name, records, columns)
    return "\n".join(lines)


def _over(name: str, records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Write the table of what each row adds to each metric of one row."""
    compared = [(record["row"], record["differences"].get(name)) for record in records]
    cells = [[row, *(_difference(found, column) for column in columns)] for row, found in compared if found]
    head = f"Each metric over '{name}':"
    return [head, "", markdown_table(["row", *columns], cells, numbers=False), ""] if cells else []


def _difference(found: Mapping[str, Any], column: str) -> str:
    return spread_text(found[column], _digits(column), "+") if column in found else "-"


def _digits(column: str) -> int:
    return 4 if "ssim" in column.lower() else 3


def _cost_header(records: Sequence[Mapping[str, Any]]) -> list[str]:
    cost = next(record["cost"] for record in records if record.get("cost"))
    frame = f"{cost['width']}x{cost['height']}"
    where = where_run(cost["device"], cost["threads"])
    return ["parameters", f"G multiply-adds ({frame})", f"ms per {frame} frame ({where})"]


def _cost(record: Mapping[str, Any]) -> list[str]:
    cost = record.get("cost")
    if not cost:
        return ["-"] * 3
    return [f"{cost['parameters']:,}", f"{cost['multiply_adds'] / 1e9:.2f}", f"{cost['milliseconds']:.0f}"]


def _cells(record: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    entries = [(record["metrics"].get(column), column) for column in columns]
    cells = [spread_text(entry, _digits(column)) if entry else "-" for entry, column in entries]
    gained = [_gain_text(gain, record["seeds"]) for gain in (record["gain"], *record["against"].values())]
    ratios = ", ".join(f"{key.removeprefix('ratio/')} {value:.2g}" for key, value in sorted(record["ratios"].items()))
    seconds = f"{record['seconds']:.0f}" if record["seconds"] else "-"
    trained = f" ({record['budget']:,} iterations)" if record["reference"] and record["budget"] else ""
    return [record["row"] + trained, str(record["seeds"]), *cells, *gained, ratios or "-", seconds]


def _gain_text(gain: Mapping[str, Any] | None, seeds: int) -> str:
    if not gain:
        return "-"
    pairs = len(gain["values"])
    return spread_text(gain, 3, "+") + (f" ({pairs} pair{'s' * (pairs != 1)})" if pairs != seeds else "")


def compare_order(outcomes: Sequence[Outcome], order: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the rows' PSNR, per budget and for neighbors in ``order``.

    Args:
        outcomes: of all runs.
        order: rows, the published worst first.

    Returns:
        {budget, lower, higher, difference (see :func:`paired`; by seed, mean over the data sets), verdict}: 'holds' or
        'reversed' where the 95 % interval excludes zero, else 'undecided'; 'one seed' where there is none. What has
        not been run yet is left out.
    """
    records = []
    for budget in sorted({outcome.budget for outcome in outcomes if not outcome.reference}):
        rows = {row: [o for o in outcomes if (o.row, o.budget) == (row, budget)] for row in order}
        for lower, higher in pairwise(order):
            if differences := gains(rows[higher], rows[lower]):
                difference = paired(differences)
                verdict = "one seed"
                if difference["half"] is not None:
                    verdict = "holds" if difference["mean"] > 0 else "reversed"
                    verdict = verdict if abs(difference["mean"]) > difference["half"] else "undecided"
                pair = {"budget": budget, "lower": lower, "higher": higher}
                records.append({**pair, "difference": difference, "verdict": verdict})
    return records


def seeds_of_rows(outcomes: Iterable[Outcome]) -> str:
    """Write which runs these are, as "bicubic; alone (seeds 0, 1)"."""
    rows: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.row, {}).update({} if outcome.reference else {str(outcome.seed): None})
    return "; ".join(f"{row} (seeds {', '.join(seeds)})" if seeds else row for row, seeds in rows.items())


def _order_text(published: PublishedOptions, compared: Sequence[Mapping[str, Any]]) -> str:
    order = f"{published.source}: {' < '.join(published.order)}. PSNR paired by seed, ± half of the 95 % t-interval:"
    lines = [
        f"- {pair['budget']:,} iterations, {pair['higher']} over {pair['lower']}: "
        f"{spread_text(pair['difference'], 3, '+')} dB, {pair['verdict']}\n"
        for pair in compared
    ]
    return f"### The published order\n\n{order}\n\n{''.join(lines)}"


def _grouped(outcomes: Sequence[Outcome], key: str) -> list[tuple[str, str]]:
    """List what outcomes tell under a key, and which runs they are of."""
    told = dict.fromkeys(text for outcome in outcomes if (text := getattr(outcome, key)))
    return [(text, seeds_of_rows(each for each in outcomes if getattr(each, key) == text)) for text in told]


def write_tables(
    outcomes: Sequence[Outcome],
    target: Path,
    bench: BenchOptions,
    command: str,
    warnings: Sequence[str] = (),
    options: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write TARGET.json (all outcomes) and TARGET.md (the table, and warnings of it); return the Markdown file.

    Args:
        outcomes: of all finished runs.
        target: the files' name without suffix.
        bench: what they are the runs of.
        command: what makes the table again.
        warnings: sentences, which stand under the table.
        options: see :func:`kdsr_arch.bench.taken.kept_options`.
    """
    summary = summarize(outcomes, next(iter(bench.rows), ""), bench.against)
    sets = [entry for outcome in outcomes for entry in outcome.val.items()]
    texts = sorted({f"{name}: {scores['protocol']}" for name, scores in sets if "protocol" in scores})
    protocol = "; ".join(texts) or "see the option file"
    record: dict[str, Any] = {"command": command, "protocol": protocol, "summary": summary}
    record["runs"] = [outcome.model_dump() for outcome in outcomes]
    record["options"] = [*options]
    text = markdown(summary, command=command, protocol=protocol, note=bench.note)
    told = [f"run on {machine}: {rows}" for machine, rows in _grouped(outcomes, "machine")]
    told += [f"of an earlier table ({source}): {rows}" for source, rows in _grouped(outcomes, "source")]
    page = f"# {target.name}\n\n{text}\n" + "".join(f"- {line}\n" for line in (*told, *warnings))
    if bench.published:
        compared = compare_order(outcomes, bench.published.order)
        record["published"] = {**bench.published.model_dump(), "found": compared}
        page += "\n" + _order_text(bench.published, compared) if compared else ""
    write_bytes(target.with_name(f"{target.name}.json"), (json.dumps(record, indent=1) + "\n").encode())
    file = target.with_name(f"{target.name}.md")
    write_bytes(file, page.encode())
    return file
