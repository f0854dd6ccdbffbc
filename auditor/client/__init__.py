"""The typed client of the HTTP API; it shares the contracts with the server.

from auditor.client import Client

with Client("https://audits.example", token="aud_...") as client:
job = client.submit_audit(...)
"""

from auditor.client.client import Client

__all__ = ["Client"]
