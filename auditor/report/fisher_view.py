"""The Fisher layer scores as tables, the same in every format: texts by row and column."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.contracts.fisher import Bounds, FisherReport, GapReading, Trajectory
from auditor.report.wording import percent

READING_COLUMNS = ("Inversion", "Against", "Aggregator", "Attacks", "Gap", "At unit", "Reading")


@dataclass(frozen=True, slots=True)
class Table:
    """Texts of a table; the first column names the row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric_from: int = 1


def gap_text(value: float, low: float, high: float) -> str:
    """`0.39 [0.28, 0.47]`."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def followed_text(fisher: FisherReport) -> str:
    """`ppa (prior vae) and pixel-tv (no public knowledge)`."""
    return " and ".join(_described(row) for row in fisher.followed)


def _described(row: Trajectory) -> str:
    if row.prior_free:
        return f"{row.attack} (no public knowledge)"
    return f"{row.attack} (prior {row.prior})" if row.prior else row.attack


def unit_table(fisher: FisherReport) -> Table:
    """Shares of every unit under the recommended aggregator, and the contrast."""
    name = fisher.aggregator
    rows = tuple(
        (
            unit.name,
            f"{unit.n_parameters:,}".replace(",", "\u202f"),
            _share(unit.classification_share.get(name), unit.classification_interval),
            _share(unit.inversion_share.get(name), unit.inversion_interval),
            _share(unit.placebo_share.get(name), unit.placebo_interval),
            _share(unit.empirical_share.get(name)),
            _share(unit.inversion_true_share.get(name)),
            f"{_share(unit.classification_trimmed)} / {_share(unit.inversion_trimmed)}",
            f"{unit.contrast:+.2f} [{unit.contrast_low:.2f}, {unit.contrast_high:.2f}]",
        )
        for unit in fisher.units
    )
    shares = ("Classification", "Inversion", "Placebo", "Classification, empirical", "Inversion, true")
    head = ("Unit", "Parameters", *shares, "Trimmed, cls. / inv.", "Contrast")
    return Table(f"Share of each unit, aggregator {name}", head, rows)


def _share(value: float | None, interval: Bounds | None = None) -> str:
    if value is None:
        return "none"
    bounds = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return percent(value) + bounds


def aggregator_table(fisher: FisherReport) -> Table:
    """Classification / inversion shares under every aggregator: only shares in one column may be compared."""
    names = tuple(fisher.units[0].classification_share) if fisher.units else ()
    rows = tuple(
        (
            unit.name,
            *(f"{_share(unit.classification_share[n])} / {_share(unit.inversion_share.get(n))}" for n in names),
        )
        for unit in fisher.units
    )
    return Table("Classification / inversion by aggregator", ("Unit", *names), rows)


def step_tables(fisher: FisherReport) -> tuple[Table, ...]:
    """Inversion share of every unit at every point of each attack's way."""
    return tuple(
        Table(
            f"Inversion shares along the way of {row.attack}",
            ("Unit", *(f"{100 * frac:g}%" for frac in row.fracs)),
            tuple(
                (unit.name, *(percent(step[index]) for step in row.per_step_share))
                for index, unit in enumerate(fisher.units)
            ),
        )
        for row in fisher.followed
        if row.per_step_share
    )


def reading_table(fisher: FisherReport) -> Table:
    """The gap under other definitions; empty rows for a report that holds none."""
    return Table(
        "The same question asked otherwise", READING_COLUMNS, tuple(_reading(row) for row in fisher.readings), 4
    )


def _reading(row: GapReading) -> tuple[str, ...]:
    return (
        row.inversion,
        row.against,
        row.aggregator,
        row.attack or "all",
        gap_text(row.gap, row.gap_low, row.gap_high),
        str(row.boundary),
        "informative" if row.informative else "uninformative",
    )


def fisher_tables(fisher: FisherReport) -> tuple[Table, ...]:
    """Every table, in reading order; those without rows are left out."""
    tables = (unit_table(fisher), reading_table(fisher), aggregator_table(fisher), *step_tables(fisher))
    return tuple(table for table in tables if table.rows)


def definitions_text(fisher: FisherReport) -> str:
    """What was computed, over how much."""
    drawn = f" (true: {fisher.inversion_true_definition})" if fisher.inversion_true_definition else ""
    text = (
        f"Classification: true Fisher, {fisher.classification_definition}; inversion: "
        f"{fisher.inversion_definition}{drawn}; {fisher.n_classes} classes, {fisher.n_images} private images, "
        f"{', '.join(f'{row.n_images} reconstructions of {row.attack}' for row in fisher.followed if row.n_images)}"
    ).removesuffix(", ")
    if fisher.weighted_boundaries:
        weighed = ", ".join(f"{weight}: {k}" for weight, k in fisher.weighted_boundaries.items())
        text += f"; boundary by the weight of classification mass {weighed}"
    if fisher.dropped_nonfinite:
        text += f"; {fisher.dropped_nonfinite} values that were not finite were left out"
    return f"{text}."
