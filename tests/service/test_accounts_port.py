"""People and what teams own: one contract for the in-memory, the SQLite and the PostgreSQL implementation."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from auditor.contracts.jobs import JobKind, JobState, UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.people import Role
from auditor.db.engine import build_engine
from auditor.db.migrate import upgrade
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import Conflict, NotFound
from auditor.service.accounts import (
    Answer,
    Baseline,
    BrowserSession,
    DataSet,
    NamedPolicy,
    StoredWaiver,
    Team,
    Token,
    Trail,
    Upload,
    User,
)
from auditor.service.records import Job, StoredReport, Submission, Unit
from auditor.service.repositories import GIVEN
from auditor.testing.database import InMemoryTransactions
from auditor.testing.reports import sample_target

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OURS, THEIRS = "a" * 32, "b" * 32


def record(kind, number=1, team=OURS):
    """A record of each kind; its id begins with the team's letter."""
    base = {"id": f"{team[0]}{number:031x}", "created_at": NOW + timedelta(seconds=number), "team_id": team}
    user = f"{team[0]}{0:031x}"
    values = {
        "users": (
            User,
            {
                "name": f"user-{number}",
                "role": Role.REVIEWER,
                "locked_until": NOW,
                "email": f"{number}@example.com",
                "issuer": "https://id.example",
                "subject": f"s-{number}",
            },
        ),
        "tokens": (
            Token,
            {
                "user_id": user,
                "name": "ci",
                "digest": f"{team[0]}{number:063x}",
                "scopes": ("read", "submit"),
                "expires_at": NOW,
            },
        ),
        "sessions": (BrowserSession, {"user_id": user, "digest": f"{team[0]}{number:063x}", "expires_at": NOW}),
        "trail": (Trail, {"who": "ann", "what": "waiver.create", "subject": "x", "detail": {"reason": "ü"}}),
        "uploads": (Upload, {"name": "m.onnx", "size": 1 << 40, "sha256": "c" * 64, "created_by": "ann"}),
        "data_sets": (
            DataSet,
            {"name": f"set-{number}", "digests": {"private.npz": "d" * 64}, "size": 3, "created_by": "ann"},
        ),
        "policies": (NamedPolicy, {"name": f"p-{number}", "policy": {"x": [1, 2.5, None]}, "created_by": "ann"}),
        "baselines": (
            Baseline,
            {
                "name": f"m-{number}",
                "report_id": "e" * 64,
                "job_id": f"{team[0]}" * 32,
                "approver": "ann",
                "findings": {"attack:ppa": "high"},
            },
        ),
        "waivers": (
            StoredWaiver,
            {"finding": "attack:ppa", "model": "m", "reason": "known", "approver": "ann", "expires_at": NOW},
        ),
        "answers": (Answer, {"digest": "f" * 64, "status": 201, "body": "{}"}),
    }[kind]
    return values[0](**base, **values[1])


KINDS = [
    "users", "tokens", "sessions", "trail", "uploads", "data_sets", "policies", "baselines", "waivers", "answers",
]  # fmt: skip
UNIQUE_NAMES = ["users", "data_sets", "policies", "baselines"]


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database(request):
    """Two teams with one person, one job, its unit and its report each."""
    engine = None
    if request.param == "memory":
        database = InMemoryTransactions()
    else:
        engine = build_engine(request.getfixturevalue(f"{request.param}_url"))
        upgrade(engine)
        database = SqlTransactions(engine)
    for team in (OURS, THEIRS):
        with database() as tx:
            tx.teams.add(Team(id=team, created_at=NOW, name=f"team-{team[0]}"))
            tx.users.add(record("users", 0, team))
            tx.submissions.add(submission(team))
            tx.jobs.add(job(team))
            tx.units.add([unit(team)])
            tx.outbox.add([unit(team).id])
            tx.reports.add(report(team))
    yield database
    if engine is not None:
        engine.dispose()


def submission(team):
    manifest = Manifest.model_validate({"model": {"name": "faces"}})
    return Submission(
        id=team, name="faces", created_at=NOW, manifest=manifest, target=sample_target(), inputs={}, team_id=team
    )


def job(team):
    return Job(
        id=team,
        kind=JobKind.AUDIT,
        name="faces",
        submission_id=team,
        fingerprint="f" * 64,
        payload={},
        created_at=NOW,
        team_id=team,
    )


def unit(team):
    return Unit(id=team[:31] + "1", job_id=team, position=0, spec=UnitSpec(kind="attack", key="attack/1"))


def report(team):
    return StoredReport(
        report_id="c" * 63 + team[0],
        job_id=team,
        unit_key="finish",
        kind=JobKind.AUDIT,
        name="faces",
        digest="d" * 64,
        gallery_digest="9" * 64,
        verdict="fail",
        level="high",
        created_at=NOW,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_records_come_back_as_they_went_in(database, kind):
    with database() as tx:
        getattr(tx, kind).add(record(kind))
    with database() as tx:
        assert getattr(tx, kind).get(record(kind).id) == record(kind)
        assert getattr(tx, kind).find(id=record(kind).id, team_id=OURS) == record(kind)
        assert getattr(tx, kind).find(id=record(kind).id, team_id=THEIRS) is None


@pytest.mark.parametrize("kind", KINDS)
def test_for_another_team_a_record_does_not_exist(database, kind):
    """Whatever is asked of it: the answers are those for an id that nobody has."""
    with database.of_team(OURS)() as tx:
        getattr(tx, kind).add(record(kind))
    with database.of_team(THEIRS)() as tx:
        table, foreign = getattr(tx, kind), record(kind).id
        with pytest.raises(NotFound) as hidden:
            table.get(foreign)
        with pytest.raises(NotFound) as missing:
            table.get("0" * 32)
        assert hidden.value.message.replace(foreign, "") == missing.value.message.replace("0" * 32, "")
        assert table.find(id=foreign) is None
        assert foreign not in [row.id for row in table.page(100)]
        assert not table.change(foreign, created_at=NOW)
        assert not table.remove(foreign)
    with database.of_team(OURS)() as tx:
        assert getattr(tx, kind).get(record(kind).id) == record(kind)
        assert getattr(tx, kind).remove(record(kind).id)
        assert not getattr(tx, kind).remove(record(kind).id)


@pytest.mark.parametrize("kind", KINDS)
def test_a_team_cannot_write_rows_of_another(database, kind):
    with pytest.raises(AssertionError, match="another team"), database.of_team(THEIRS)() as tx:
        getattr(tx, kind).add(record(kind))


def test_a_team_sees_itself_alone(database):
    with database.of_team(OURS)() as tx:
        assert [team.id for team in tx.teams.page(10)] == [OURS]
        assert tx.teams.find(id=THEIRS) is None


@pytest.mark.parametrize("kind", UNIQUE_NAMES)
def test_a_name_is_taken_once_in_each_team(database, kind):
    with database() as tx:
        getattr(tx, kind).add(record(kind))
        getattr(tx, kind).add(record(kind, team=THEIRS))
    second = replace(record(kind), id="a" + "9" * 31)
    with pytest.raises(Conflict, match=f"'{second.name}' already"), database() as tx:
        getattr(tx, kind).add(second)
    with database() as tx:
        assert getattr(tx, kind).find(id=second.id) is None


@pytest.mark.parametrize("kind", KINDS)
def test_pages_go_on_after_each_other_also_at_equal_times(database, kind):
    rows = [replace(record(kind, number), created_at=NOW) for number in range(1, 5)]
    rows += [record(kind, number) for number in range(5, 8)]
    with database.of_team(OURS)() as tx:
        before = {row.id for row in getattr(tx, kind).page(10)}
        for row in rows:
            getattr(tx, kind).add(row)
        seen, after = [], None
        while part := getattr(tx, kind).page(2, after):
            seen += [row.id for row in part]
            after = (part[-1].created_at, part[-1].id)
    wanted = sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)
    assert [found for found in seen if found not in before] == [row.id for row in wanted]


def test_a_change_with_a_condition_happens_once(database):
    """What makes a token single-use: of two, one gets it."""
    with database() as tx:
        tx.tokens.add(record("tokens"))
        token = record("tokens").id
        assert tx.tokens.change(token, {"revoked_at": None}, revoked_at=NOW)
        assert not tx.tokens.change(token, {"revoked_at": None}, revoked_at=NOW)
        assert tx.tokens.get(token).revoked_at == NOW


def test_rows_can_be_asked_for_whose_value_is_any_but_none(database):
    with database() as tx:
        tx.tokens.add(record("tokens", 1))
        tx.tokens.add(replace(record("tokens", 2), user_id=None))
    with database.of_team(OURS)() as tx:
        assert [row.id for row in tx.tokens.page(10, user_id=GIVEN)] == [record("tokens", 1).id]


@pytest.mark.parametrize("taken", [{"email": "1@example.com"}, {"issuer": "https://id.example", "subject": "s-1"}])
def test_who_somebody_is_at_a_provider_is_taken_once_in_each_team(database, taken):
    nobody = {"email": None, "issuer": None, "subject": None}
    with database() as tx:
        tx.users.add(record("users", 1))
        tx.users.add(replace(record("users", 2), **nobody))
        tx.users.add(replace(record("users", 3), **nobody))
        tx.users.add(replace(record("users", 1, THEIRS), **nobody))
    with pytest.raises(Conflict, match="user like this already"), database() as tx:
        tx.users.change(record("users", 2).id, failures=1, **taken)
    with pytest.raises(Conflict), database() as tx:
        tx.users.add(replace(record("users", 4), **(nobody | taken)))
    with database() as tx:
        assert tx.users.get(record("users", 2).id).failures == 0
        assert tx.users.find(id=record("users", 4).id) is None
        assert tx.users.change(record("users", 1, THEIRS).id, **taken)
        assert tx.users.change(record("users", 1).id, **taken)
        assert tx.users.find(team_id=THEIRS, **taken).id == record("users", 1, THEIRS).id
        assert tx.users.find(id=record("users", 3).id, subject=None).email is None


def test_a_role_stays_a_role(database):
    with database() as tx:
        tx.users.change(record("users", 0).id, role=Role.ADMIN)
        assert tx.users.get(record("users", 0).id).role is Role.ADMIN
        assert [user.id for user in tx.users.page(5, role=Role.ADMIN)] == [record("users", 0).id]


def test_audits_of_another_team_do_not_exist(database):
    mine = unit(OURS)
    with database.of_team(OURS)() as tx:
        assert tx.jobs.get("aaaa") == job(OURS)
        assert [row.id for row in tx.jobs.latest(9)] == [OURS]
        assert [row.id for row in tx.jobs.page(9, kind=JobKind.AUDIT)] == [OURS]
        assert tx.jobs.page(9, kind=JobKind.REPAIR) == []
        assert [row.id for row in tx.submissions.page(9)] == [OURS]
        assert tx.submissions.get(OURS) == submission(OURS)
        assert [row.job_id for row in tx.reports.latest(9)] == [OURS]
        assert [row.job_id for row in tx.reports.page(9)] == [OURS]
        assert tx.reports.page(9, (NOW, OURS)) == []
        assert tx.reports.find("aaaa") == report(OURS)
        assert [unit_id for _, unit_id in tx.outbox.pending()] == [mine.id]
        assert tx.jobs.with_fingerprint("f" * 64, THEIRS) is None
        for ask in (tx.jobs.get, tx.submissions.get, tx.reports.find, tx.reports.find):
            with pytest.raises(NotFound):
                ask(THEIRS)
        with pytest.raises(NotFound):
            tx.units.get(unit(THEIRS).id)
        with pytest.raises(NotFound):
            tx.reports.find("c" * 63 + "b")
        assert tx.units.of_job(THEIRS) == []
        assert tx.reports.of_job(THEIRS) == []
        assert tx.reports.without_pictures(THEIRS) == []
        tx.jobs.set_state(THEIRS, JobState.FAILED, error=None, finished_at=NOW)
        tx.jobs.set_cancel_requested(THEIRS, True)
    with database() as tx:
        assert tx.jobs.get(THEIRS) == job(THEIRS)
        assert tx.reports.find(THEIRS).gallery_digest is not None


def test_pictures_are_taken_from_a_report(database):
    with database.of_team(OURS)() as tx:
        assert tx.reports.without_pictures(OURS) == ["9" * 64]
        assert tx.reports.find(OURS).gallery_digest is None
        assert tx.reports.without_pictures(OURS) == []


def test_a_running_unit_of_another_team_is_neither_seen_nor_settled(database):
    with database() as tx:
        claimed = tx.units.claim(unit(THEIRS).id, worker="w", now=NOW, lease_until=NOW)
    with database.of_team(OURS)() as tx:
        assert tx.units.expired(NOW + timedelta(days=1)) == []
    with database.of_team(THEIRS)() as tx:
        assert [row.id for row in tx.units.expired(NOW + timedelta(days=1))] == [claimed.id]
