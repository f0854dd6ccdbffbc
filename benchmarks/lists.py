"""What lists cost when many jobs have ended: processor seconds of one request, the server in this process, on SQLite.

    python -m benchmarks.lists [--jobs 1103] [--repeat 3]

Two models: one was audited once, and everything else that is stored is newer and of the other one. First all of it is
judged anew, as after a change of the rules.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from auditor.api.app import build_app
from auditor.bootstrap import Services, build_services, migrate
from auditor.contracts.base import canonical_json
from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.manifest import Manifest
from auditor.contracts.people import Bootstrap, SignIn
from auditor.contracts.policy import Verdict
from auditor.service.people import People
from auditor.service.records import Job, StoredReport, Submission
from auditor.settings import Settings
from auditor.testing.reports import sample_report, sample_target

RARE, COMMON = "badge-reader", "door-camera"
PAGES = ("/", f"/?model={RARE}", "/?state=running", "/api/v1/jobs?limit=200", "/models", f"/models/{RARE}")
PASSWORD = secrets.token_hex(12)


def entries(services: Services, names: Sequence[str]) -> Iterator[tuple[Job, StoredReport]]:
    """A finished job with its report for each name, each a second newer than the one before."""
    digest = services.store.put_bytes(canonical_json(sample_report(Verdict.FAIL)).encode())
    now = services.clock.now() - timedelta(seconds=len(names))
    for place, name in enumerate(names):
        job_id, when = secrets.token_hex(16), now + timedelta(seconds=place)
        job = Job(job_id, JobKind.AUDIT, name, "s" * 32, secrets.token_hex(32), {}, when, JobState.DONE)
        report = StoredReport(
            secrets.token_hex(32), job_id, "finish", JobKind.AUDIT, name, digest, None, "fail", "high", when, rules=0
        )
        yield replace(job, finished_at=when), report


def fill(services: Services, jobs: int) -> None:
    """Store the rare model's audit, then all the others."""
    manifest = Manifest.model_validate({"model": {"name": COMMON}})
    with services.database() as tx:
        tx.submissions.add(Submission("s" * 32, COMMON, services.clock.now(), manifest, sample_target(), {}))
        for job, report in entries(services, [RARE, *[COMMON] * (jobs - 1)]):
            tx.jobs.add(job)
            tx.reports.add(report)


def seconds(browser: TestClient, page: str, repeat: int) -> float:
    """Processor time of one request, the mean of some after a first one."""
    if browser.get(page).status_code != 200:
        raise RuntimeError(f"{page}: {browser.get(page).text[:300]}")
    started = time.process_time()
    for _ in range(repeat):
        browser.get(page)
    return (time.process_time() - started) / repeat


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1103, help="Audits that have ended.")
    parser.add_argument("--repeat", type=int, default=3, help="Requests of each page.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auditor-lists-") as folder:
        settings = Settings(home=Path(folder))
        migrate(settings)
        services = build_services(settings)
        fill(services, options.jobs)
        started = time.process_time()
        judged = services.verdicts.judge_anew()
        each = (time.process_time() - started) / judged
        people = People(database=services.database, clock=services.clock)
        token = people.make_bootstrap_token()
        with TestClient(build_app(services, settings), base_url="http://127.0.0.1:8000") as browser:
            first = Bootstrap(token=token, name="ann", password=PASSWORD)
            browser.post("/api/v1/bootstrap", json=first.model_dump(mode="json")).raise_for_status()
            who = SignIn(name="ann", password=PASSWORD)
            browser.post("/api/v1/session", json=who.model_dump(mode="json")).raise_for_status()
            sys.stdout.write("| request | processor seconds |\n|---|---|\n")
            sys.stdout.write(f"| one of {judged} reports judged anew | {each:.4f} |\n")
            for page in PAGES:
                sys.stdout.write(f"| `{page}` | {seconds(browser, page, options.repeat):.3f} |\n")
        services.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
