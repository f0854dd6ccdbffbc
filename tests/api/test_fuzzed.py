"""The whole API, fuzzed from its own description: whatever is sent, the answer is one that the description knows."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from auditor.api.rights import RIGHTS
from auditor.contracts.people import Role
from auditor.service.records import LOCAL_TEAM

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance)
LEFT_OUT = {
    ("DELETE", "/session"): "ends nothing for a token",
    ("PUT", "/session/password"): "would lock the fuzzer's own account",
    ("PATCH", "/users/{user_id}"): "could disable it",
}


@pytest.fixture(scope="module")
def description(house):
    return schemathesis.openapi.from_url(f"{house.url}/api/v1/openapi.json")


@pytest.mark.parametrize(("method", "path"), sorted(RIGHTS.keys() - LEFT_OUT.keys()))
def test_no_input_breaks_a_route(house, description, method, path):
    operation = description[f"/api/v1{path}"][method]
    headers = {"Authorization": f"Bearer {house.tokens[LOCAL_TEAM, Role.ADMIN]}"}
    if RIGHTS[method, path].role is None:
        headers = {}

    @settings(
        max_examples=6,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy())
    def send(case):
        case.call_and_validate(headers=headers, checks=CHECKS)

    send()
