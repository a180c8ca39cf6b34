"""`kdsr bench FILE`: train a table of methods x seeds x budgets and write it down with its spread."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdsr_arch.commands.common import add_import_flag, imported_by


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument("file", type=Path, help="the bench file (YAML): base options, rows, seeds, budgets")
    parser.add_argument("-o", "--output", type=Path, help="results without suffix (default: experiments/results/NAME)")
    parser.add_argument("--jobs", type=int, help="runs side by side (default: the file's)")
    parser.add_argument(
        "--done", type=Path, metavar="JSON", help="an earlier table of this bench, whose finished runs count as done"
    )
    parser.add_argument("--curves", action="store_true", help="also draw learning curves, gain against budget, cost")
    add_import_flag(parser)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="run these rows only; the table keeps what is done")


def run(args: argparse.Namespace) -> int:
    """Train what is missing, write the tables and print them; exit code 0 when every run that was asked for is done."""
    from kdsr_arch.bench.outcomes import outcomes_of, outdated
    from kdsr_arch.bench.plan import Plan
    from kdsr_arch.bench.run import run_bench
    from kdsr_arch.bench.summary import write_tables
    from kdsr_arch.bench.taken import kept_options, take
    from kdsr_arch.options import project_root

    plan = Plan(args.file, project_root(args.file), imported_by(args))
    runs = plan.runs()
    for sentence in take(args.done, [*plan.tested(), *plan.rows()]) if args.done else ():
        print(sentence)
    warnings = outdated(runs)  # what is trained from here on has the options of now
    target = args.output or plan.root / "experiments" / "results" / plan.bench.name

    def write() -> Path | None:
        outcomes = outcomes_of(runs)
        command = f"kdsr bench {args.file}"
        return write_tables(outcomes, target, plan.bench, command, warnings, kept_options(runs)) if outcomes else None

    run_bench(plan, jobs=args.jobs, only=args.only, progress=write)
    page = write()
    if page is None:
        print("no run has finished: no table written")
        return 1
    print(page.read_text(encoding="utf-8"))
    outcomes = outcomes_of(runs)
    if args.curves:
        from kdsr_arch.bench.curves import histories, levels, plot_bench, plot_costs, plot_gains
        from kdsr_arch.bench.summary import summarize

        if plan.rows():
            print(plot_bench(histories(runs), target.with_name(f"{target.name}_curves.png"), *levels(outcomes)))
            first = next(iter(plan.bench.rows))
            summary = summarize(outcomes, first)
            if len({record["budget"] for record in summary if record["gain"]}) > 1:
                picture = target.with_name(f"{target.name}_gains.png")
                print(plot_gains(summary, picture, first))
        elif any(outcome.cost for outcome in outcomes):
            print(plot_costs(outcomes, target.with_name(f"{target.name}.png")))
    asked, done = (sum(not args.only or each.row in args.only for each in part) for part in (runs, outcomes))
    return 0 if done == asked else 1
