"""The Celery application of a worker."""

from __future__ import annotations

from celery import Celery

from auditor.adapters.celery_queue import QUEUE
from auditor.settings import Settings

VISIBILITY_MARGIN_S = 3600


def build_app(broker_url: str, settings: Settings) -> Celery:
    """An application that takes one unit at a time and keeps no results.

    Redis hands a message out again when it was not acknowledged within the visibility timeout; since a unit is
    acknowledged when it ends, that timeout is longer than any unit may run. Truth is in the database either way.
    """
    app = Celery("auditor", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_default_queue=QUEUE,
        worker_prefetch_multiplier=1,
        worker_pool="prefork",
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": settings.unit_timeout_s + VISIBILITY_MARGIN_S},
    )
    return app
