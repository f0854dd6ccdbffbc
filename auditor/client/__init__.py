"""The typed client of the HTTP API; it shares the contracts with the server.

with Client("https://audits.example", token="aud_...") as client:
    model = client.upload(Path("model.onnx"))
    manifest = Manifest.model_validate({"model": {"name": "badge-reader"}})
    started = client.start_audit(NewAudit(model=model.id, manifest=manifest))
    client.job(started.job_id)
"""

from auditor.client.client import Client

__all__ = ["Client"]
