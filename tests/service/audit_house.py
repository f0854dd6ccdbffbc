"""An installation on in-memory ports, for tests of the use-cases."""

from auditor.contracts.jobs import JobKind
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.service.audits import Audits, SubmitRequest
from auditor.service.claims import ClaimRules
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs
from auditor.service.pipeline import AUDIT
from auditor.service.reaper import Reaper
from auditor.testing.database import InMemoryTransactions
from auditor.testing.handlers import fast_handlers
from auditor.testing.ports import InMemoryQueue, InMemoryStore, InProcessRunner, SetClock

RULES = ClaimRules()
CHECK_TIMEOUT_S = 120.0
ALL_UNITS = [
    "prepare",
    "attack/ppa/0", "attack/ppa/1",
    "attack/mirror-b/0", "attack/mirror-b/1",
    "attack/control/vae/0", "attack/control/vae/1",
    "fisher", "finish",
]  # fmt: skip


class House:
    """Everything wired on in-memory ports."""

    def __init__(self, tmp_path):
        self.tmp_path = tmp_path
        self.model = tmp_path / "model.onnx"
        self.model.write_bytes(b"weights")
        self.handlers = fast_handlers()
        self.store, self.queue, self.clock = InMemoryStore(), InMemoryQueue(), SetClock()
        self.transactions = InMemoryTransactions()
        self.runner = InProcessRunner(self.handlers, tmp_path / "cache")
        self.executor = Executor(
            store=self.store,
            transactions=self.transactions,
            queue=self.queue,
            runner=self.runner,
            clock=self.clock,
            pipelines={JobKind.AUDIT: AUDIT},
            scratch=tmp_path / "scratch",
        )
        self.jobs = Jobs(
            transactions=self.transactions,
            executor=self.executor,
            clock=self.clock,
            pipelines={JobKind.AUDIT: AUDIT},
        )
        self.reaper = Reaper(
            transactions=self.transactions,
            jobs=self.jobs,
            queue=self.queue,
            clock=self.clock,
            scratch=tmp_path / "scratch",
            unit_timeout_s=60,
        )
        self.audits = Audits(
            store=self.store,
            transactions=self.transactions,
            executor=self.executor,
            jobs=self.jobs,
            clock=self.clock,
            check_timeout_s=CHECK_TIMEOUT_S,
        )

    def submit(self, name="faces", *, fresh=False, on_event=None):
        manifest = Manifest.model_validate({"model": {"name": name}})
        request = SubmitRequest(self.model, manifest, self.tmp_path, Policy(), fresh)
        return self.audits.submit(request, *([on_event] if on_event else []))

    def work(self):
        """A worker: takes announced units until none is left."""
        while self.queue.sent:
            self.executor.execute_unit(self.queue.sent.popleft())

    def replace(self, kind, handler):
        """Let `handler(unit, workspace, session)` do units of `kind`; the handler that was there comes back with it."""
        before = self.handlers[kind]
        self.handlers[kind] = handler
        return before


def states(view):
    return {unit.key: unit.state for unit in view.units}
