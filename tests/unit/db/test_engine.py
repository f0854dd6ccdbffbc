from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text

from auditor.db.engine import build_engine
from auditor.db.migrate import require_head, revision, upgrade
from auditor.db.models import UtcDateTime
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import InvalidInput, StorageFailure


def test_sqlite_is_set_up_to_be_safe(sqlite_url):
    engine = build_engine(sqlite_url)
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
    engine.dispose()


@pytest.mark.parametrize(("url", "says"), [("not a url", "not a URL"), ("mysql://u:hush@h/d", "names 'mysql'")])
def test_an_address_that_cannot_be_used_is_explained_without_its_password(url, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        build_engine(url)
    assert "hush" not in str(caught.value)


def test_plain_postgresql_means_psycopg_3():
    engine = build_engine("postgresql://u@h/d")
    assert engine.dialect.driver == "psycopg"
    engine.dispose()


def test_a_file_that_is_no_database_is_a_storage_failure(tmp_path):
    (tmp_path / "auditor.db").write_bytes(b"this is not SQLite" * 100)
    engine = build_engine(f"sqlite:///{tmp_path / 'auditor.db'}")
    with pytest.raises(StorageFailure, match="not a database"):
        upgrade(engine)
    with pytest.raises(StorageFailure, match="not a database"), SqlTransactions(engine)() as work:
        work.jobs.latest(1)
    engine.dispose()


def test_a_folder_that_cannot_be_made_is_a_storage_failure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailure, match="cannot be made"):
        build_engine(f"sqlite:///{tmp_path / 'file' / 'auditor.db'}")


def test_postgresql_that_does_not_answer_is_a_storage_failure_that_tells_no_password(tmp_path):
    engine = build_engine(f"postgresql://u:hush@/d?host={tmp_path}")
    with pytest.raises(StorageFailure, match="could not be used") as caught:
        revision(engine)
    assert "hush" not in str(caught.value)
    engine.dispose()


def test_an_empty_database_is_not_up_to_date(sqlite_url):
    engine = build_engine(sqlite_url)
    assert revision(engine) is None
    with pytest.raises(StorageFailure, match="'nothing'") as caught:
        require_head(engine)
    assert "`auditor migrate`" in caught.value.remedy
    upgrade(engine)
    require_head(engine)
    engine.dispose()


def test_a_database_of_a_newer_version_is_left_alone_and_says_so(sqlite_url):
    engine = build_engine(sqlite_url)
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    for use in (upgrade, require_head):
        with pytest.raises(StorageFailure, match="newer version: its schema is at '0099'"):
            use(engine)
    engine.dispose()


def test_times_are_utc_both_ways():
    column = UtcDateTime()
    here = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert column.process_bind_param(here, None) == datetime(2030, 1, 1, 10, tzinfo=UTC)
    assert column.process_result_value(datetime(2030, 1, 1, 10), None) == datetime(2030, 1, 1, 10, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        column.process_bind_param(datetime(2030, 1, 1), None)
