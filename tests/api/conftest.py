"""Installations for the tests of the API."""

import pytest
from api_house import installed

from auditor.settings import Settings


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """An installation on SQLite, whose server runs the jobs itself."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), device="cpu", requests_per_minute=1_000_000, max_upload_bytes=1 << 20
    )
    with installed(settings) as house:
        yield house


@pytest.fixture(scope="module")
def postgres_house(tmp_path_factory, shared_postgres_url):
    """The same on PostgreSQL."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        database_url=shared_postgres_url,
        device="cpu",
        requests_per_minute=1_000_000,
        max_upload_bytes=1 << 20,
    )
    with installed(settings) as house:
        yield house
