"""Every defense on one audited model, in one table: what each costs and what is left of the leak.

    auditor submit OUT/model.safetensors -c OUT/auditor.yaml
    python -m benchmarks.repairs REPORT [--defense tl-dmi --defense bido] [--search sweep] [--params '{"epochs": 30}']
                                        [--max-accuracy-loss 0.1]

Runs a repair of the stored audit REPORT for each defense (default: all that fit) and prints a Markdown row per
boundary: held-out accuracy, the worst lift under attacks that do not know the defense, the worst under attacks that do,
and the seconds of training. "Worst" is the attack with the largest upper bound, and is named. The first row is the
model as it was submitted, under all of these attacks. A line per attack follows: before, after, and the paired
difference. Every boundary is audited with the repair's quick plan; one that loses no more
accuracy than allowed (default: nothing) is audited with the full plan too, which this table does not show.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from auditor.bootstrap import Services, build_services
from auditor.contracts.jobs import JobState, JobView
from auditor.contracts.repair import RepairReport
from auditor.contracts.scores import Measured, Score
from auditor.errors import AuditorError
from auditor.evaluation.paired import compare_reports
from auditor.settings import Settings
from benchmarks.result_tables import percent, ratio, table
from remediation.advice import advise
from remediation.offers import OFFERS
from remediation.service import RepairRequest

HEADS = ("defense", "frozen", "accuracy", "lift, attacks that do not know it", "lift, attacks that know it", "seconds")


def worst(scores: Mapping[str, Score]) -> str:
    """The score with the largest upper bound, and its attack; `-` where one is unknown, or there is none."""
    known = {key: score for key, score in scores.items() if isinstance(score, Measured)}
    if not known or len(known) < len(scores):
        return "-"
    key = max(known, key=lambda name: known[name].high)
    return f"{ratio(known[key])} {key}"


def by_knowledge(lifts: Mapping[str, Score], knowing: set[str]) -> tuple[str, str]:
    """The worst lift of attacks that do not know the defense, and of those that do."""
    return (
        worst({key: score for key, score in lifts.items() if key not in knowing}),
        worst({key: score for key, score in lifts.items() if key in knowing}),
    )


def rows_of(report: RepairReport, view: JobView) -> Iterable[tuple[str, ...]]:
    """One row per boundary that was trained to the end, the submission first."""
    knowing = {attack.key for attack in OFFERS[report.defense].adaptive}
    seconds = {unit.key: unit.seconds or 0.0 for unit in view.units}
    yield ("as submitted", "", percent(report.accuracy_before), *by_knowledge(report.quick_lift_before, knowing), "")
    for item in report.candidates:
        k, of = item.freeze.boundary, item.freeze.n_units
        yield (
            report.defense,
            f"{k} of {of}",
            percent(item.accuracy),
            *by_knowledge(item.lift, knowing),
            f"{seconds.get(f'k{k}/train', 0.0):.0f}",
        )


def pairs_of(report: RepairReport, house: Services) -> Iterable[str]:
    """Every attack's lift on the submission and on a candidate, and the paired difference."""
    before = house.audits.get_report(report.before_quick_report_id)
    for item in report.candidates:
        for row in compare_reports(before, house.audits.get_report(item.report_id)):
            if row.metric == "lift" and not row.attack.startswith("control/"):
                told = f"{ratio(row.before)} -> {ratio(row.after)}, lowered by {ratio(row.difference)}"
                yield f"{item.freeze.boundary} frozen, {row.attack}: {told}"


def repaired(house: Services, request: RepairRequest) -> tuple[RepairReport, JobView]:
    """The report of a repair, run here unless it is stored."""
    view = house.jobs.run_in_place(house.repairs.start(request).job_id)
    if view.state is not JobState.DONE:
        raise AuditorError(f"the repair ended as {view.state}: {view.error.problems if view.error else ''}")
    return house.audits.get_repair_report(view.id), view


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the repairs and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report")
    parser.add_argument("--defense", action="append", choices=tuple(OFFERS))
    parser.add_argument("--search", default="fisher", help="fisher, sweep or fixed:K; for defenses that freeze")
    parser.add_argument("--params", type=json.loads, default={}, help="parameters of every defense, as JSON")
    parser.add_argument("--max-accuracy-loss", type=float, default=0.0, help="points of 0..1 a repair may cost")
    args = parser.parse_args(arguments)
    house = build_services(Settings())
    fitting = [row.offer.name for row in advise(house.audits.get_report(args.report)) if not row.against]
    print(table(HEADS, ()))  # noqa: T201
    for name in args.defense or fitting:
        params: dict[str, Any] = args.params
        search = args.search if name == "tl-dmi" else None
        request = RepairRequest(
            args.report, max_accuracy_loss=args.max_accuracy_loss, defense=name, search=search, params=params
        )
        try:
            report, view = repaired(house, request)
        except AuditorError as error:
            print(f"| {name} | - | {error} | - | - | - |", flush=True)  # noqa: T201
            continue
        for row in rows_of(report, view):
            print("| " + " | ".join(row) + " |", flush=True)  # noqa: T201
        for line in (*pairs_of(report, house), *report.notes):
            print(f"  {line}", flush=True)  # noqa: T201
    house.close()


if __name__ == "__main__":
    main()
