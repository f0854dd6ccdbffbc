"""The recipes of docs/operations.md, run word for word: what was stored is there again, and what waited goes on."""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url, text

from auditor.bootstrap import build_services, migrate
from auditor.contracts.jobs import JobState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.service.audits import SubmitRequest
from auditor.settings import Settings
from auditor.testing.servers import postgres_binaries

pytestmark = pytest.mark.slow
DOC = Path(__file__).parents[2] / "docs" / "operations.md"
HANDLERS = "auditor.testing.handlers:fast_handlers"


def recipe(title):
    """The one shell block under a heading."""
    (section,) = re.findall(rf"^### {title}\n(.*?)(?=^##|\Z)", DOC.read_text(), flags=re.S | re.M)
    (block,) = re.findall(r"```sh\n(.*?)```", section, flags=re.S)
    return block


def follow(title, *, home, backup, database=""):
    binaries = postgres_binaries()
    path = os.pathsep.join([str(Path(sys.executable).parent), str(binaries or ""), os.environ["PATH"]])
    given = {"AUDITOR_HOME": str(home), "BACKUP": str(backup), "DATABASE": database, "PATH": path}
    done = subprocess.run(  # noqa: S603
        ["/bin/bash", "-euc", recipe(title)], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def fill(settings, tmp_path):
    """A finished job and one that has begun."""
    services = build_services(settings, handlers=HANDLERS)
    (tmp_path / "model.onnx").write_bytes(b"weights")
    ids = []
    for name in ("finished", "begun"):
        manifest = Manifest.model_validate({"model": {"name": name}})
        ids.append(services.audits.submit(SubmitRequest(tmp_path / "model.onnx", manifest, tmp_path, Policy())).job_id)
    services.jobs.run_in_place(ids[0])
    services.executor.execute_next()
    report = services.audits.get_report(ids[0])
    services.close()
    return ids, report


def check(settings, ids, report):
    services = build_services(settings, handlers=HANDLERS)
    try:
        assert services.jobs.status(ids[0]).state is JobState.DONE
        assert services.audits.get_report(ids[0]) == report
        begun = services.jobs.status(ids[1])
        assert begun.state is JobState.QUEUED
        assert [unit.state for unit in begun.units].count("done") == 1
        assert services.jobs.run_in_place(ids[1]).state is JobState.DONE
        assert all(unit.attempt == 1 for unit in services.jobs.status(ids[1]).units), "nothing is run again"
    finally:
        services.close()


def test_sqlite(tmp_path):
    old, new, backup = (tmp_path / name for name in ("old", "new", "backup"))
    backup.mkdir()
    ids, report = fill(Settings(home=old, device="cpu"), tmp_path)
    follow("Back up SQLite", home=old, backup=backup)
    follow("Restore SQLite", home=new, backup=backup)
    check(Settings(home=new, device="cpu"), ids, report)


WRITE_AND_DIE = """
import os, secrets, signal, sys
from pathlib import Path
from auditor.bootstrap import build_services
from auditor.service.accounts import Team
from auditor.settings import Settings
services = build_services(Settings(home=Path(sys.argv[1]), device="cpu"))
for index in range(300):
    with services.database() as tx:
        tx.teams.add(Team(secrets.token_hex(16), services.clock.now(), f"later{index}"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sqlite_restored_over_a_home_whose_process_died(tmp_path):
    home, backup = tmp_path / "home", tmp_path / "backup"
    backup.mkdir()
    ids, report = fill(Settings(home=home, device="cpu"), tmp_path)
    follow("Back up SQLite", home=home, backup=backup)
    subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(home)], check=False)  # noqa: S603
    assert (home / "auditor.db-wal").stat().st_size, "nothing to replay"
    follow("Restore SQLite", home=home, backup=backup)
    with contextlib.closing(sqlite3.connect(home / "auditor.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM teams WHERE name LIKE 'later%'").fetchone() == (0,)
    assert not (home / "artifacts" / "artifacts").exists()
    check(Settings(home=home, device="cpu"), ids, report)


@pytest.mark.integration
@pytest.mark.skipif(postgres_binaries() is None, reason="pg_dump belongs to PostgreSQL's binaries")
def test_postgres(tmp_path, postgres_url):
    old, new, backup = (tmp_path / name for name in ("old", "new", "backup"))
    backup.mkdir()
    settings = Settings(home=old, device="cpu", database_url=SecretStr(postgres_url))
    migrate(settings)
    ids, report = fill(settings, tmp_path)
    plain = postgres_url.replace("postgresql+psycopg://", "postgresql://")
    follow("Back up PostgreSQL", home=old, backup=backup, database=plain)
    empty(postgres_url)
    follow("Restore PostgreSQL", home=new, backup=backup, database=plain)
    check(settings.model_copy(update={"home": new}), ids, report)


def empty(url):
    """Everything in the database is lost."""
    engine = create_engine(make_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
