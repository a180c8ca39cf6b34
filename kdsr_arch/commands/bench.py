"""`kdsr bench FILE`: train a table of methods x seeds x budgets and write it down with its spread."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdsr_arch.bench.plan import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument("file", type=Path, help="the bench file (YAML): base options, rows, seeds, budgets")
    parser.add_argument("-o", "--output", type=Path, help="results without suffix (default: experiments/results/NAME)")
    parser.add_argument("--jobs", type=int, help="runs side by side (default: the file's)")
    parser.add_argument("--curves", action="store_true", help="also draw learning curves: OUTPUT_curves.png")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="run these rows only; the table keeps what is done")


def run(args: argparse.Namespace) -> int:
    """Train what is missing, write the tables and print them; exit code 0 when every run of the file has finished."""
    from kdsr_arch.bench.plan import plan_before, plan_runs, plan_tested, read_bench
    from kdsr_arch.bench.run import outcome, run_bench
    from kdsr_arch.bench.table import write_tables
    from kdsr_arch.options import project_root

    root = project_root(args.file)
    bench = read_bench(args.file)
    planned = (plan(bench, args.file, root) for plan in (plan_before, plan_tested, plan_runs))
    runs = [run for runs in planned for run in runs]
    target = args.output or root / "experiments" / "results" / bench["name"]

    def write() -> list[dict]:
        outcomes = [result for result in map(outcome, runs) if result is not None]
        protocol = "; ".join(sorted({text for result in outcomes for text in _protocols(result)}))
        if outcomes:
            told = {"command": f"kdsr bench {args.file}", "protocol": protocol or "see the option file"}
            write_tables(outcomes, target, **told, note=bench["note"], published=bench["published"])
        return outcomes

    run_bench(args.file, root=root, jobs=args.jobs, only=args.only, progress=write)
    outcomes = write()
    if not outcomes:
        print("no run has finished: no table written")
        return 1
    print(target.with_suffix(".md").read_text(encoding="utf-8"))
    if args.curves:
        print(_draw(runs, outcomes, target.with_name(f"{target.name}_curves.png")))
    return 0 if len(outcomes) == len(runs) else 1


def _draw(runs: list[Run], outcomes: list[dict], out: Path) -> Path:
    """Learning curves of the longest run of each row, with the levels of what stands beside the rows.

    A row that is an earlier one's run, read off later, has no curve of its own.
    """
    from kdsr_arch.bench.run import outcome
    from kdsr_arch.report.bench_curves import plot_bench

    done = [run for run in runs if not run.reference and outcome(run) is not None]
    longest = max((run.budget for run in done), default=0)
    drawn: dict[Path, Run] = {}
    for run in done:
        if run.budget == longest:
            drawn.setdefault(run.experiment, run)
    rows: dict[str, list] = {}
    for run in drawn.values():
        rows.setdefault(run.row, []).append(_history(run))
    name = next((name for o in outcomes for name in o["val"]), "")  # a teacher may have been trained without any
    levels = {o["row"]: o["val"][name]["psnr"] for o in outcomes if o["reference"] and "psnr" in o["val"].get(name, {})}
    return plot_bench(rows, out, name=name, levels=levels)


def _history(run: Run) -> list[dict[str, Any]]:
    """The log of a run up to its length, the pixel loss without its weight: rows may weigh it differently."""
    from kdsr_arch.options import load_yaml
    from kdsr_arch.train.history import logged_number, read_history

    weight = ((load_yaml(run.options).get("train") or {}).get("pixel_opt") or {}).get("loss_weight", 1)
    records = [record for record in read_history(run.experiment) if record["iter"] <= run.length]
    if not isinstance(weight, int | float) or weight <= 0:  # a schedule
        return records
    for record in records:
        value = logged_number(record.get("l_pix"))
        if value is not None:
            record["l_pix"] = value / weight
    return records


def _protocols(result: dict) -> list[str]:
    return [f"{dataset}: {metrics['protocol']}" for dataset, metrics in result["val"].items() if "protocol" in metrics]
