"""The scraped text: parsed by Prometheus' own parser, true to the database, without any state of its own."""

from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from auditor.adapters.prometheus import CONTENT_TYPE, metrics_text
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.errors import StorageFailure
from auditor.service.audits import Audits, SubmitRequest
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs
from auditor.service.metrics import Metrics
from auditor.service.pipeline import AUDIT
from auditor.testing.database import InMemoryTransactions
from auditor.testing.handlers import fast_handlers
from auditor.testing.ports import InMemoryQueue, InMemoryStore, InProcessRunner, SetClock


@pytest.fixture
def house(tmp_path):
    store, queue, clock, transactions = InMemoryStore(), InMemoryQueue(), SetClock(), InMemoryTransactions()
    executor = Executor(
        store=store, transactions=transactions, queue=queue, clock=clock, pipelines={"audit": AUDIT},
        runner=InProcessRunner(fast_handlers(), tmp_path / "cache"), scratch=tmp_path / "scratch",
    )  # fmt: skip
    jobs = Jobs(transactions=transactions, executor=executor, clock=clock, pipelines={"audit": AUDIT})
    audits = Audits(store=store, transactions=transactions, executor=executor, jobs=jobs, clock=clock)
    (tmp_path / "model.onnx").write_bytes(b"weights")

    def submit(name, team):
        manifest = Manifest.model_validate({"model": {"name": name}})
        request = SubmitRequest(tmp_path / "model.onnx", manifest, tmp_path, Policy(), team_id=team)
        return audits.submit(request).job_id

    metrics = Metrics(transactions=transactions, clock=clock)
    return SimpleNamespace(
        submit=submit, jobs=jobs, clock=clock, metrics=metrics, transactions=transactions, queue=queue
    )


def scraped(house):
    """`name{label=value,...}` to value."""
    found = {}
    for family in text_string_to_metric_families(metrics_text(house).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_an_empty_service_says_zero(house):
    found = scraped(house)
    assert found["auditor_jobs_running"] == found["auditor_queue_oldest_seconds"] == found["auditor_outbox"] == 0
    assert found["auditor_units_redone_total"] == 0
    assert CONTENT_TYPE.startswith("text/plain")


def test_what_is_stored_is_what_is_scraped(house):
    house.jobs.run_in_place(house.submit("one", "team-a"))
    house.submit("two", "team-b")
    house.clock.sleep(30)
    found = scraped(house)
    assert found["auditor_jobs{kind=audit,state=done,team=team-a}"] == 1
    assert found["auditor_jobs{kind=audit,state=queued,team=team-b}"] == 1
    assert found["auditor_units{kind=attack,state=done}"] == 6
    assert found["auditor_unit_seconds_total{kind=attack}"] == 6.0
    assert found["auditor_queue_waiting{team=team-b}"] == 1
    assert found["auditor_queue_oldest_seconds"] == 30
    assert found["auditor_reports{kind=audit,verdict=fail}"] == 1


def test_a_lease_that_ran_out_is_stalled_and_not_running(house):
    house.submit("one", "team-a")
    with house.transactions() as tx:
        now = house.clock.now()
        tx.queue.claim_next(worker="w", now=now, lease_until=now, team_units=0)
    assert scraped(house)["auditor_queue_running{team=team-a}"] == 1
    house.clock.sleep(1)
    found = scraped(house)
    assert (found["auditor_units_stalled"], found["auditor_jobs_running"]) == (1, 0)
    assert "auditor_queue_running{team=team-a}" not in found


def test_a_database_that_is_away_is_said(house):
    house.transactions.broken = True
    with pytest.raises(StorageFailure):
        metrics_text(house)
