"""Clients that upload and submit over HTTP at the same time, and how long each request took them."""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from auditor.client import Client
from auditor.contracts.manifest import InputSpec, Manifest
from auditor.contracts.service import NewAudit
from auditor.errors import AuditorError
from auditor.loading.onnx_export import export_onnx
from auditor.targets.architectures import build_architecture

MODEL_BYTES = 256 << 10
Models = Callable[[int], bytes]
"""The model file of a submission by its number; every submission has bytes of its own."""


def random_bytes(number: int) -> bytes:
    """No model at all: for checks that compute nothing."""
    return random.Random(number).randbytes(MODEL_BYTES)  # noqa: S311 - not a secret


def classifiers(folder: Path) -> Models:
    """ONNX files of one small CNN, 32 x 32 in colour, that differ in one weight."""
    path = folder / "base.onnx"
    spec = InputSpec(channels=3, height=32, width=32)
    export_onnx(build_architecture("small-cnn", n_classes=10, channels=3), spec, path, n_classes=10)
    base = path.read_bytes()

    def model(number: int) -> bytes:
        proto = onnx.load_from_string(base)
        weights = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = numpy_helper.to_array(weights).copy()
        values.flat[0] += number / 1000
        weights.raw_data = values.tobytes()
        return bytes(proto.SerializeToString())

    return model


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


def write_models(folder: Path, jobs: int, models: Models) -> None:
    """The files that `submit_all` submits."""
    for number in range(jobs):
        _file(folder, number).write_bytes(models(number))


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
    started = uploaded = time.monotonic()
    job_id, problem = None, ""
    try:
        upload = client.upload(_file(folder, number))
        uploaded = time.monotonic()
        manifest = Manifest.model_validate({"model": {"name": f"model-{number}"}})
        job_id = client.start_audit(NewAudit(model=upload.id, manifest=manifest, priority=int(number % 10 == 9))).job_id
    except AuditorError as error:
        problem = f"{error.code}: {error.message}"
    found = Submitted(number, job_id, problem, uploaded - started, time.monotonic() - uploaded)
    if problem or number % 50 == 0:
        outcome = problem or f"accepted after {found.upload_s + found.submit_s:.1f} s"
        sys.stderr.write(f"submission {number}: {outcome}\n")
    return found


def _file(folder: Path, number: int) -> Path:
    return folder / f"model-{number}.onnx"


def percentiles(found: Sequence[Submitted], seconds: Callable[[Submitted], float]) -> str:
    """Median and the slow end, of those that were accepted."""
    cuts = statistics.quantiles([seconds(one) for one in found if one.job_id is not None], n=100)
    return f"median {cuts[49]:.2f} s, 95 % {cuts[94]:.2f} s, 99 % {cuts[98]:.2f} s"
