"""Lists stay whole and cheap when thousands of jobs and reports are stored, on SQLite and on PostgreSQL."""

import secrets
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from pages_house import Visitor, audited, told
from sqlalchemy import Engine, event

from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.people import Role
from auditor.contracts.policy import Verdict
from auditor.service.records import LOCAL_TEAM
from auditor.testing.reports import sample_report

CROWD = 2100
"""More than the newest 2000 jobs, 1000 reports and 500 reports that pages once looked through."""


class Crowd:
    """A model with two audits and a repair, then a crowd of newer audits of one other model."""

    def __init__(self, house):
        self.house = house
        self.old, self.busy = audited(house, sample_report(Verdict.FAIL)), f"busy-{secrets.token_hex(4)}"
        with house.services.database() as tx:
            self.job, self.report = tx.jobs.get(self.old["job_id"]), tx.reports.of_job(self.old["job_id"])[0]
        self.model = self.job.name
        (self.second,) = self.add(1, self.model)
        (self.waiting,) = self.add(1, f"waits-{self.busy}", state=JobState.QUEUED)
        self.add(CROWD, self.busy)

    def add(self, count, name, *, state=JobState.DONE, kind=JobKind.AUDIT):
        """Ids of new jobs, each a second newer; those that are done left a report."""
        added = []
        with self.house.services.database() as tx:
            for _ in range(count):
                self.now = getattr(self, "now", self.job.created_at) + timedelta(seconds=1)
                new = {"name": name, "kind": kind, "created_at": self.now}
                job = replace(self.job, id=secrets.token_hex(16), state=state, **new)
                tx.jobs.add(job)
                if state is JobState.DONE:
                    report = replace(self.report, report_id=secrets.token_hex(32), job_id=job.id, **new)
                    tx.reports.add(report)
                added.append(job.id)
        return added


@pytest.fixture(scope="module", params=["house", pytest.param("postgres_house", marks=pytest.mark.integration)])
def crowd(request):
    return Crowd(request.getfixturevalue(request.param))


@pytest.fixture
def visitor(crowd):
    with Visitor(crowd.house, Role.REVIEWER) as visitor:
        yield visitor


@contextmanager
def counted():
    """The statements that databases are sent meanwhile."""
    sent = []

    def note(_connection, _cursor, statement, *_):
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def links(root, start):
    """Ids at the ends of the addresses that begin so."""
    found = [link.get("href", "") for link in root.all("a")]
    return [address.removeprefix(start) for address in found if address.startswith(start)]


def following(root):
    return next((link.get("href") for link in root.all("a") if link.get("rel") == "next"), None)


def rows_of(root, label):
    """Rows of the table in the region of that name."""
    (region,) = [item for item in root.all() if item.get("aria-label") == label]
    return region.all("tbody")[0].all("tr")


def test_every_model_is_listed_with_all_its_audits(crowd, visitor):
    shown = {row.all("th")[0].text: row.all("td")[2].text for row in rows_of(visitor.page("/models"), "Models")}
    assert (shown[crowd.model], shown[crowd.busy]) == ("2", str(CROWD))


def test_the_list_of_models_has_pages(crowd, visitor, monkeypatch):
    monkeypatch.setattr("auditor.api.web.routes.models._MODELS", 1)
    root = visitor.page("/models")
    assert "The others are on the next page." in root.text
    seen = [[row.all("th")[0].text for row in rows_of(root, "Models")]]
    while address := following(root):
        root = visitor.page(address)
        seen.append([row.all("th")[0].text for row in rows_of(root, "Models")])
    assert [name for name in seen if name in ([crowd.busy], [crowd.model])] == [[crowd.busy], [crowd.model]]
    assert "Every audited model" not in root.text
    assert "next page" not in root.text
    assert f"/audits/{crowd.report.digest}" in [link.get("href") for link in root.all("a")], "its baseline"


def test_a_model_is_found_behind_thousands_of_reports_of_another(crowd, visitor):
    root = visitor.page(f"/models/{crowd.model}")
    assert len(rows_of(root, "Versions")) == 2
    assert "audits are shown" not in root.text
    assert links(root, "/repairs/") == [crowd.old["repair_id"]]
    assert following(root) is None


def test_older_versions_are_said_to_be_left_out_and_can_be_seen(crowd, visitor):
    root = visitor.page(f"/models/{crowd.busy}")
    assert "The newest 50 audits are shown. Older ones are on the next page." in root.text
    newest = rows_of(root, "Versions")
    assert [len(links(row, "/compare")) for row in newest] == [1] * 50, "each with the one before, also the last"
    root = visitor.page(following(root))
    assert "Older audits are shown, newer ones are left out. Older ones are on the next page." in root.text
    older = rows_of(root, "Versions")
    shown = [links(row, "/audits/")[0] for row in (*newest, *older)]
    assert len(set(shown)) == 100
    first = shown[50]
    assert f"before={first}&" in links(newest[-1], "/compare?")[0]
    assert f"/models/{crowd.busy}" in [link.get("href") for link in root.all("a") if link.text == "Newest"]


def test_the_last_page_of_a_model_ends_with_its_first_audit(crowd, visitor, monkeypatch):
    monkeypatch.setattr("auditor.api.web.routes.models._VERSIONS", 1)
    root = visitor.page(f"/models/{crowd.model}")
    assert links(root, "/compare?") != []
    root = visitor.page(following(root))
    assert "Older audits are shown, newer ones are left out." in root.text
    assert (following(root), links(root, "/compare?")) == (None, [])


def test_older_repairs_can_be_seen(crowd, visitor, monkeypatch):
    monkeypatch.setattr("auditor.api.web.routes.models._REPAIRS", 1)
    name = f"repaired-{secrets.token_hex(4)}"
    crowd.add(1, name)
    repairs = crowd.add(2, name, kind=JobKind.REPAIR)
    root = visitor.page(f"/models/{name}")
    assert links(root, "/repairs/") == [repairs[1]]
    assert "Older ones are on the next page." in root.text
    (older,) = links(root, f"/models/{name}?repairs_after=")
    root = visitor.page(f"/models/{name}?repairs_after={older}")
    assert links(root, "/repairs/") == [repairs[0]]
    assert "Older ones" not in root.text


def test_the_page_of_an_audit_finds_the_others_of_its_model(crowd, visitor):
    root = visitor.page(f"/audits/{crowd.second}")
    assert [option.get("value") for option in _offered(root, "other")] == [crowd.old["job_id"]]
    assert "There is no other audit" not in root.text
    assert "are offered here" not in root.text


def test_the_page_of_an_audit_says_that_more_can_be_compared(crowd, visitor):
    with crowd.house.services.database() as tx:
        newest = tx.reports.page(1, name=crowd.busy)[0].job_id
    root = visitor.page(f"/audits/{newest}")
    assert len(_offered(root, "other")) == 20
    assert newest not in [option.get("value") for option in _offered(root, "other")]
    assert "The newest 20 are offered here" in root.text


def test_the_form_that_compares_says_that_it_offers_the_newest(crowd, visitor):
    root = visitor.page("/compare")
    assert len(_offered(root, "before")) == 200
    assert "The newest 200 audits are offered here" in root.text


def _offered(root, name):
    (select,) = [item for item in root.all("select") if item.get("id") == name]
    return select.all("option")


def test_what_waits_is_seen_behind_thousands_that_ended(crowd, visitor):
    for address in ("/", f"/?model=WAITS-{crowd.busy}", "/?state=queued&kind=audit"):
        assert crowd.waiting in links(visitor.page(address), "/jobs/"), address
    for address in ("/?state=done", "/?kind=repair", "/?kind=none", "/?model=nobodys", "/?state=none"):
        assert crowd.waiting not in links(visitor.page(address), "/jobs/"), address


def test_what_ended_is_found_by_name_behind_thousands(crowd, visitor):
    root = visitor.page(f"/?model={crowd.model[:-1].upper()}")
    assert links(root, "/audits/") == [crowd.second, crowd.old["job_id"]]
    assert links(root, "/repairs/") == [crowd.old["repair_id"]]
    assert told(visitor.get("/?model=%25"), 200).text.count(crowd.busy) == 0


def test_of_many_that_wait_the_first_are_shown(crowd, visitor, monkeypatch):
    monkeypatch.setattr("auditor.api.web.routes.queue._WAITING", 1)
    name = f"line-{secrets.token_hex(4)}"
    crowd.add(3, name, state=JobState.QUEUED)
    root = visitor.page(f"/?model={name}")
    assert len(links(root, "/jobs/")) == 1
    assert "2 more wait behind these." in root.text


@pytest.mark.parametrize("address", ["/", "/?state=done", "/?model=busy", "/models", "/compare"])
def test_a_list_is_a_few_statements_however_many_rows_it_has(crowd, visitor, address):
    visitor.page(address)
    with counted() as sent:
        visitor.page(address)
    assert len([statement for statement in sent if statement.startswith("SELECT")]) <= 40, "\n".join(sent)


def test_the_jobs_of_the_api_are_a_few_statements(crowd):
    with crowd.house.client(Role.REVIEWER, LOCAL_TEAM) as client, counted() as sent:
        assert len(client.get("/jobs", params={"limit": 200}).json()["items"]) == 200
    assert len([statement for statement in sent if statement.startswith("SELECT")]) <= 40, "\n".join(sent)
