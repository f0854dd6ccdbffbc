"""Installations for the tests of the API, and a browser."""

import os
import shutil

import pytest
from api_house import installed
from openid_house import Browser, provided

from auditor.settings import Settings

CHROMIUM = os.environ.get("AUDITOR_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


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


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: install it, or name it in AUDITOR_TEST_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def running():
    """An OpenID Connect provider."""
    with provided() as provider:
        yield provider


@pytest.fixture
def provider(running):
    """The same, as it was at first."""
    running.reset()
    return running


@pytest.fixture
def browser(house):
    """Walks through sign-ins of `house`."""
    with Browser(house.url) as browser:
        yield browser
