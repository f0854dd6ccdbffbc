"""One history of migrations builds SQLite and PostgreSQL alike, and matches the models."""

import sqlite3
import subprocess
import sys
import threading

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from auditor.db import migrate
from auditor.db.account_models import BaselineRow
from auditor.db.engine import build_engine
from auditor.db.models import Base


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def engine(request):
    engine = build_engine(request.getfixturevalue(f"{request.param}_url"))
    yield engine
    engine.dispose()


def test_the_code_knows_its_revision(engine):
    scripts = ScriptDirectory.from_config(migrate.alembic_config(engine))
    assert scripts.get_current_head() == migrate.HEAD


def test_migrations_build_what_the_models_say(engine):
    migrate.upgrade(engine)
    command.check(migrate.alembic_config(engine))  # raises when the models and the tables differ
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_the_check_would_notice_a_difference(engine):
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_jobs_created_at")
    with pytest.raises(Exception, match="New upgrade operations"):
        command.check(migrate.alembic_config(engine))


def test_down_and_up_again(engine):
    migrate.upgrade(engine)
    command.downgrade(migrate.alembic_config(engine), "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    migrate.upgrade(engine)
    migrate.require_head(engine)


def add_audit(connection):
    """A job of 0001 and what was submitted with it."""
    connection.exec_driver_sql(
        "INSERT INTO submissions (id, name, created_at, manifest, target, inputs) "
        "VALUES ('s', 'faces', '2030-01-01 00:00:00', '{}', '{}', '{}')"
    )
    connection.exec_driver_sql(
        "INSERT INTO jobs (id, kind, name, submission_id, fingerprint, payload, created_at, state, "
        "cancel_requested) "
        "VALUES ('j', 'audit', 'faces', 's', 'f', '{}', '2030-01-01 00:00:00', 'done', false)"
    )


def test_what_was_stored_before_teams_belongs_to_the_local_one(engine):
    """Up, down and up again with rows in place."""
    config = migrate.alembic_config(engine)
    command.upgrade(config, "0001")
    with engine.begin() as connection:
        add_audit(connection)
    for _ in range(2):
        migrate.upgrade(engine)
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT id, team_id, priority FROM jobs").all()
            assert [tuple(row) for row in rows] == [("j", "local", 0)]
            assert connection.exec_driver_sql("SELECT team_id FROM submissions").scalar_one() == "local"
        command.downgrade(config, "0001")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT id FROM jobs").scalar_one() == "j"


@pytest.mark.parametrize(("revision", "column", "value"), [("0006", "looser_policy", "true"), ("0007", "rules", "1")])
def test_of_older_reports_nobody_knows_what_was_not_kept(engine, revision, column, value):
    """Whether their policy is looser, and which rules judged them."""
    config = migrate.alembic_config(engine)
    command.upgrade(config, revision)
    with engine.begin() as connection:
        add_audit(connection)
        connection.exec_driver_sql(
            "INSERT INTO reports (report_id, job_id, unit_key, kind, name, digest, verdict, level, created_at) "
            "VALUES ('r', 'j', 'finish', 'audit', 'faces', 'd', 'pass', 'low', '2030-01-01 00:00:00')"
        )
    for _ in range(2):
        migrate.upgrade(engine)
        with engine.begin() as connection:
            rows = connection.exec_driver_sql(f"SELECT verdict, {column} FROM reports").all()  # noqa: S608
            assert [tuple(row) for row in rows] == [("pass", None)]
            connection.exec_driver_sql(f"UPDATE reports SET {column} = {value}")  # noqa: S608
        command.downgrade(config, revision)


def test_people_come_and_go_with_their_revision(engine):
    """Rows of 0002 outlive both ways; rows of 0003 can be written after each."""
    config = migrate.alembic_config(engine)
    command.upgrade(config, "0002")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO teams (id, name, created_at) VALUES ('t', 'faces', '2030-01-01 00:00')")
    for _ in range(2):
        migrate.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE teams SET pictures_days = 7 WHERE id = 't'")
            connection.exec_driver_sql(
                "INSERT INTO users (id, created_at, team_id, name, role, disabled, failures) "
                "VALUES ('u', '2030-01-01 00:00', 't', 'ann', 'admin', false, 0)"
            )
            connection.exec_driver_sql(
                "INSERT INTO tokens (id, created_at, team_id, user_id, name, digest, scopes, expires_at) "
                "VALUES ('k', '2030-01-01 00:00', 't', 'u', 'ci', 'd', '[]', '2030-01-01 00:00')"
            )
        command.downgrade(config, "0002")
        with engine.connect() as connection:
            teams = connection.exec_driver_sql("SELECT id FROM teams ORDER BY id").scalars().all()
            assert teams == ["local", "t"]


def test_who_people_are_at_a_provider_comes_and_goes_with_its_revision(engine):
    """People of 0003 outlive both ways; afterwards an address is one person's in each team."""
    config = migrate.alembic_config(engine)
    command.upgrade(config, "0003")
    person = (
        "INSERT INTO users (id, created_at, team_id, name, role, disabled, failures) "
        "VALUES ('{0}', '2030-01-01 00:00', 'local', '{0}', 'admin', false, 0)"
    )
    used = (
        "INSERT INTO tokens (id, created_at, team_id, user_id, name, digest, scopes, expires_at) "
        "VALUES ('k', '2030-01-01 00:00', 'local', 'ann', 'ci', 'd', '[]', '2030-01-01 00:00')"
    )
    with engine.begin() as connection:
        for statement in (person.format("ann"), person.format("bob"), used):
            connection.exec_driver_sql(statement)
    for _ in range(2):
        migrate.upgrade(engine)
        with engine.begin() as connection:
            rows = connection.exec_driver_sql("SELECT id, email, issuer, subject FROM users ORDER BY id").all()
            assert [tuple(row) for row in rows] == [("ann", None, None, None), ("bob", None, None, None)]
            connection.exec_driver_sql("UPDATE users SET email = 'a@b', issuer = 'i', subject = 's' WHERE id = 'ann'")
        for taken in (
            "UPDATE users SET email = 'a@b' WHERE id = 'bob'",
            "UPDATE users SET issuer = 'i', subject = 's' WHERE id = 'bob'",
        ):
            with pytest.raises(IntegrityError), engine.begin() as connection:
                connection.exec_driver_sql(taken)
        command.downgrade(config, "0003")
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT id FROM users ORDER BY id").scalars().all() == ["ann", "bob"]
            assert connection.exec_driver_sql("SELECT user_id FROM tokens").scalar_one() == "ann"


@pytest.mark.integration
def test_both_databases_have_the_same_columns_keys_and_indexes(sqlite_url, postgres_url):
    shapes = []
    for url in (sqlite_url, postgres_url):
        engine = build_engine(url)
        migrate.upgrade(engine)
        look = inspect(engine)
        shapes.append(
            {
                table: (
                    [(column["name"], column["nullable"]) for column in look.get_columns(table)],
                    sorted(
                        index["name"] for index in look.get_indexes(table) if not index.get("duplicates_constraint")
                    ),
                    sorted(str(key["name"]) for key in look.get_unique_constraints(table)),
                    sorted(str(key["name"]) for key in look.get_foreign_keys(table)),
                    look.get_pk_constraint(table)["constrained_columns"],
                )
                for table in Base.metadata.tables
            }
        )
        engine.dispose()
    assert shapes[0] == shapes[1]


def test_processes_may_start_on_an_empty_sqlite_file_together(sqlite_url):
    code = (
        "import sys\n"
        "from auditor.db.engine import build_engine\n"
        "from auditor.db.migrate import revision, upgrade\n"
        f"engine = build_engine({sqlite_url!r})\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "upgrade(engine)\n"
        "print(revision(engine))\n"
    )
    command = [sys.executable, "-c", code]
    starting = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(3)
    ]
    for process in starting:
        assert process.stdout.readline() == "ready\n"
    for process in starting:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in starting] == [f"{migrate.HEAD}\n"] * 3


def test_a_first_connection_waits_for_another_process_writer(sqlite_url):
    writer = sqlite3.connect(make_url(sqlite_url).database, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, writer.execute, ["COMMIT"])
    release.start()
    with build_engine(sqlite_url).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    release.join()
    writer.close()


def test_a_failed_migration_leaves_nothing_half_done(engine, monkeypatch):
    from alembic import op

    def fail(*_args, **_kwargs):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(op, "create_index", fail)
    with pytest.raises(RuntimeError):
        migrate.upgrade(engine)
    monkeypatch.undo()
    assert inspect(engine).get_table_names() == []
    migrate.upgrade(engine)
    migrate.require_head(engine)


def test_what_was_approved_before_findings_were_kept_lets_nothing_through(engine):
    """An approval of 0003 outlives both ways."""
    config = migrate.alembic_config(engine)
    command.upgrade(config, "0003")
    with engine.begin() as connection:
        add_audit(connection)
        connection.exec_driver_sql(
            "INSERT INTO reports (report_id, job_id, unit_key, kind, name, digest, verdict, created_at) "
            "VALUES ('r', 'j', 'finish', 'audit', 'faces', 'd', 'fail', '2030-01-01 00:00:00')"
        )
        connection.exec_driver_sql(
            "INSERT INTO baselines (id, created_at, team_id, name, report_id, job_id, approver) "
            "VALUES ('b', '2030-01-01 00:00:00', 'local', 'faces', 'r', 'j', 'ann')"
        )
    for _ in range(2):
        migrate.upgrade(engine)
        with Session(engine) as session:
            (row,) = session.scalars(select(BaselineRow))
            assert (row.name, row.findings, row.digest) == ("faces", {}, "d")
        command.downgrade(config, "0003")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT approver FROM baselines").scalar_one() == "ann"
