import pytest

from auditor.api.limits import RateLimit
from auditor.errors import TooManyRequests


def test_a_minutes_requests_may_come_at_once_and_then_as_time_allows():
    now = 0.0
    limit = RateLimit(60, lambda: now)
    for _ in range(60):
        limit.take("a")
    with pytest.raises(TooManyRequests) as refused:
        limit.take("a")
    limit.take("b")
    now += refused.value.retry_after_s
    limit.take("a")
    limit.take("a")
    with pytest.raises(TooManyRequests):
        limit.take("a")
