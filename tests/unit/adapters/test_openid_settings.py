"""What the settings say of the OpenID Connect provider: whole, by half, or not at all."""

import os
import socket
import subprocess
import sys

import pytest

from auditor.adapters.openid_settings import is_guarded, provider_settings
from auditor.errors import InvalidInput
from auditor.settings import Settings

WHOLE = {
    "public_url": "https://audits.example",
    "oidc_issuer": "https://id.example/realm",
    "oidc_client_id": "auditor",
    "oidc_client_secret": "hidden",
}
IN_THE_FILE = "hidden too"


def problems(**given):
    with pytest.raises(InvalidInput) as error:
        provider_settings(Settings(**given))
    return error.value.problems


def test_it_is_off_by_default():
    assert provider_settings(Settings()) is None
    assert provider_settings(Settings(public_url="https://audits.example", oidc_name="Acme")) is None
    assert provider_settings(Settings(oidc_issuer="", oidc_client_id="", oidc_client_secret_file="")) is None


def test_a_whole_one():
    found = provider_settings(Settings(**WHOLE | {"public_url": "https://audits.example:8443/"}))
    assert found.redirect_uri == "https://audits.example:8443/sign-in/openid/done"
    assert (found.issuer, found.client_id, found.client_secret) == (WHOLE["oidc_issuer"], "auditor", "hidden")
    assert (found.scopes, found.by_email, found.name) == (("openid", "email"), True, "single sign-on")
    assert "hidden" not in repr(Settings(**WHOLE))


@pytest.mark.parametrize("left", ["oidc_issuer", "oidc_client_id", "oidc_client_secret"])
def test_by_half_everything_that_is_missing_is_named_at_once(left):
    told = " ".join(problems(**{left: WHOLE[left]}))
    for name in ("PUBLIC_URL", "OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"):
        assert (f"AUDITOR_{name}" in told) is (f"AUDITOR_{name}" != f"AUDITOR_{left.upper()}")
    assert "missing" in told


def test_all_that_is_wrong_is_named_at_once():
    wrong = {
        "public_url": "https://audits.example/path",
        "oidc_issuer": "http://id.example",
        "oidc_scopes": "profile",
        "oidc_name": "x" * 61,
    }
    told = problems(**WHOLE | wrong)
    for name in ("PUBLIC_URL", "OIDC_ISSUER", "OIDC_SCOPES lacks 'openid'", "OIDC_SCOPES lacks 'email'", "OIDC_NAME"):
        assert [line for line in told if f"AUDITOR_{name}" in line]
    assert len(told) == 5


def test_the_secret_may_lie_in_a_file(tmp_path):
    whole = {name: value for name, value in WHOLE.items() if name != "oidc_client_secret"}
    file = tmp_path / "secret"
    assert "cannot be read: No such file" in problems(**whole, oidc_client_secret_file=file)[0]
    file.write_text("\n")
    assert problems(**whole, oidc_client_secret_file=file) == ("AUDITOR_OIDC_CLIENT_SECRET_FILE is empty",)
    file.write_bytes(b"\xff")
    assert "no text" in problems(**whole, oidc_client_secret_file=file)[0]
    file.write_text(f"{IN_THE_FILE}\n")
    assert provider_settings(Settings(**whole, oidc_client_secret_file=file)).client_secret == IN_THE_FILE
    assert "both set" in problems(**WHOLE, oidc_client_secret_file=file)[0]


@pytest.mark.parametrize(
    ("address", "guarded"),
    [
        ("https://id.example/x", True),
        ("http://localhost:8080", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:80/x", True),
        ("http://id.example", False),
        ("http://localhost.evil.example", False),
        ("https://user:word@id.example", False),
        ("https://", False),
        ("https://id.example:x", False),
        ("https://id example", False),
        ("https://[id", False),
        ("javascript:alert(1)", False),
        ("//id.example", False),
        ("", False),
    ],
)
def test_what_is_sent_is_encrypted_or_stays_here(address, guarded):
    assert is_guarded(address) is guarded


def test_the_server_does_not_start_by_half(tmp_path):
    done = _served(tmp_path, {"AUDITOR_OIDC_ISSUER": "http://id.example"})
    assert done.returncode == 2
    for name in ("PUBLIC_URL", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_ISSUER is no https"):
        assert f"AUDITOR_{name}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("SECRET_KEY", "short", "secret_key"),
        ("REQUESTS_PER_MINUTE", "0", "requests_per_minute"),
        ("TRUSTED_PROXIES", "10.0.0.1,proxy", "trusted_proxies"),
        ("PUBLIC_URL", "ftp://x", "public_url"),
        ("PUBLIC_URL", "https://?x", "public_url"),
        ("PUBLIC_URL", "https:// bad", "public_url"),
    ],
)
def test_neither_does_it_with_a_key_to_guess_or_no_request_allowed(tmp_path, name, value, word):
    done = _served(tmp_path, {f"AUDITOR_{name}": value})
    assert (done.returncode, word in done.stderr, value in done.stderr.split()) == (2, True, False)


@pytest.mark.parametrize("key", ["", " " * 20])
def test_an_empty_key_is_none(monkeypatch, key):
    monkeypatch.setenv("AUDITOR_SECRET_KEY", key)
    assert Settings().secret_key is None


def test_a_port_that_is_taken_is_an_error_of_its_own(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = _served(tmp_path, {}, port=taken.getsockname()[1])
    assert (done.returncode, "is the port in use?" in done.stderr) == (2, True)


def _served(home, variables, port=0):
    env = os.environ | {"AUDITOR_HOME": str(home)} | variables
    words = [sys.executable, "-c", "from auditor.cli.main import main; main()", "serve", "--port", str(port)]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)  # noqa: S603
