"""What happens to units, for a log: ids, keys, teams and error codes; never contents of files or settings."""

from __future__ import annotations

import logging

from auditor.service.records import Job, Unit

LOGGER = "auditor.units"
_LOG = logging.getLogger(LOGGER)


def tell(happened: str, unit: Unit, job: Job | None = None, **more: str | float | int) -> None:
    """One line, e.g. `unit_claimed`; a door that keeps structured logs sees the fields as such."""
    fields: dict[str, str | float | int] = {
        "job_id": unit.job_id,
        "unit_id": unit.id,
        "unit_key": unit.spec.key,
        "attempt": unit.attempt,
    }
    if job is not None:
        fields["team"] = job.team_id
    _LOG.info(happened, extra=fields | more)
