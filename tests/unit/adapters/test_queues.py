import socket

import pytest

from auditor.adapters.celery_queue import CeleryQueue
from auditor.adapters.inline_queue import InlineQueue
from auditor.errors import StorageFailure


def test_a_broker_that_is_down_is_a_storage_failure_that_tells_no_password():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(StorageFailure) as caught:
        CeleryQueue(f"redis://:hush@127.0.0.1:{port}/0").enqueue("abc")
    assert "broker" in caught.value.message
    assert "hush" not in f"{caught.value} {caught.value.remedy}"


def test_the_inline_queue_needs_nobody():
    assert InlineQueue().enqueue("abc") is None
