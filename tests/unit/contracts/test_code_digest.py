"""The digest of the project's own code."""

from pathlib import Path

from auditor.contracts.base import code_digest


def test_a_process_reads_its_code_once(monkeypatch):
    first = code_digest()
    monkeypatch.setattr(Path, "read_bytes", lambda _path: b"changed")
    assert code_digest() == first
