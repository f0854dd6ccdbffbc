"""Clients that upload and submit over HTTP at the same time, and how long each request took them."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from auditor.client import Client
from auditor.contracts.manifest import Manifest
from auditor.contracts.service import NewAudit
from auditor.errors import AuditorError

MODEL_BYTES = 256 << 10
"""Every submission has bytes of its own."""


@dataclass(frozen=True)
class Submitted:
    """What came of one submission.

    Attributes:
        number: of the submission; one in ten has priority.
        job_id: None: it was refused.
        problem: why.
        upload_s: seconds until the model was there.
        submit_s: seconds until the submission was checked, stored and queued.
    """

    number: int
    job_id: str | None
    problem: str
    upload_s: float
    submit_s: float

    @property
    def urgent(self) -> bool:
        """Whether it has priority."""
        return self.number % 10 == 9


def submit_all(url: str, tokens: Sequence[str], folder: Path, jobs: int) -> list[Submitted]:
    """Every client begins at the same moment and submits its share, one after the other."""
    together = threading.Barrier(len(tokens))

    def work(place: int) -> list[Submitted]:
        with Client(url, tokens[place]) as client:
            together.wait()
            return [_submit(client, number, folder) for number in range(place, jobs, len(tokens))]

    with ThreadPoolExecutor(len(tokens)) as pool:
        return sorted((one for own in pool.map(work, range(len(tokens))) for one in own), key=lambda one: one.number)


def _submit(client: Client, number: int, folder: Path) -> Submitted:
    model = folder / f"model-{number}.onnx"
    model.write_bytes(random.Random(number).randbytes(MODEL_BYTES))  # noqa: S311 - not a secret
    started = uploaded = time.monotonic()
    job_id, problem = None, ""
    try:
        upload = client.upload(model)
        uploaded = time.monotonic()
        manifest = Manifest.model_validate({"model": {"name": f"model-{number}"}})
        job_id = client.start_audit(NewAudit(model=upload.id, manifest=manifest, priority=int(number % 10 == 9))).job_id
    except AuditorError as error:
        problem = f"{error.code}: {error.message}"
    return Submitted(number, job_id, problem, uploaded - started, time.monotonic() - uploaded)


def percentiles(found: Sequence[Submitted], seconds: Callable[[Submitted], float]) -> str:
    """Median and the slow end, of those that were accepted."""
    cuts = statistics.quantiles([seconds(one) for one in found if one.job_id is not None], n=100)
    return f"median {cuts[49]:.2f} s, 95 % {cuts[94]:.2f} s, 99 % {cuts[98]:.2f} s"
