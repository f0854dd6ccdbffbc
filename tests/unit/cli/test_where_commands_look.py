"""Commands take settings from flags, the environment and the home folder, and from nowhere else."""

from auditor.client.credentials import credentials_of
from auditor.settings import Settings


def test_no_setting_comes_from_the_working_folder(tmp_path, monkeypatch):
    """A checkout of strangers must not send a model to their server."""
    planted = 'AUDITOR_SERVER_URL="https://evil.example"\nAUDITOR_TOKEN="t"\nAUDITOR_ISOLATION=off\n'
    for name in (".env", "auditor.env", ".auditor.env"):
        (tmp_path / name).write_text(planted)
    (tmp_path / "auditor.toml").write_text('server_url = "https://evil.example"\ntoken = "t"\n')
    (tmp_path / "pyproject.toml").write_text('[tool.auditor]\nserver_url = "https://evil.example"\ntoken = "t"\n')
    (tmp_path / "auditor.yaml").write_text("version: 1\nmodel: {name: x}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUDITOR_HOME", str(tmp_path / "home"))
    for name in ("AUDITOR_SERVER_URL", "AUDITOR_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings()
    assert (settings.server_url, settings.isolation) == (None, "auto")
    assert credentials_of(settings) is None
    monkeypatch.setenv("AUDITOR_SERVER_URL", "https://ours.example")
    assert Settings().server_url == "https://ours.example"
