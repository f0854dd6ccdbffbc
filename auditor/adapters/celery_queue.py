"""Wakes workers through a Celery broker: a message says that a unit waits, and the database says whose turn it is."""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import RedisError

from auditor.errors import StorageFailure

QUEUE = "auditor.units"
RUN_UNIT = "auditor.run_unit"
"""Name of the task; the one thing that sender and worker share."""

_RETRY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.5, "interval_max": 1.0}


class CeleryQueue:
    """Sends unit ids, by task name, as JSON.

    Args:
        broker_url: Redis address.
    """

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("auditor", broker=broker_url, set_as_current=False)
        self._app.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            broker_connection_timeout=5,
            broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 30},
        )

    def enqueue(self, unit_id: str) -> None:
        """Announce a unit; raises StorageFailure when the broker cannot be reached."""
        try:
            self._app.send_task(RUN_UNIT, args=[unit_id], queue=QUEUE, retry=True, retry_policy=_RETRY)
        except (OperationalError, OSError) as error:
            raise _unreachable(error) from error

    def backlog(self) -> int:
        """Messages that no worker has taken."""
        try:
            with self._app.connection_for_read() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue=QUEUE, passive=True).message_count)
        except ChannelError:  # Redis keeps no empty queue
            return 0
        except (OperationalError, RedisError, OSError) as error:
            raise _unreachable(error) from error


def _unreachable(error: Exception) -> StorageFailure:
    return StorageFailure(
        f"the broker could not be reached: {type(error).__name__}",
        remedy="Check AUDITOR_BROKER_URL and that Redis runs; the work is stored and is announced again.",
    )
