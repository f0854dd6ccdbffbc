"""The whole API, fuzzed from its own description by everybody: whatever is sent, the answer is one that it describes.

`AUDITOR_TEST_FUZZ_EXAMPLES=200` draws as many requests a route; each is sent by four callers.
"""

import os
import secrets
from dataclasses import replace

import pytest
import schemathesis
from api_house import HASH, PASSWORD
from api_specimen import specimen
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from auditor.api.rights import RIGHTS
from auditor.contracts.people import Role, Scope
from auditor.service.accounts import User
from auditor.service.records import LOCAL_TEAM

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CHECKS = (
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
EXAMPLES = int(os.environ.get("AUDITOR_TEST_FUZZ_EXAMPLES", "8"))
ENDS_THE_SESSION = {("DELETE", "/session"), ("PUT", "/session/password")}


@pytest.fixture(scope="module")
def description(house):
    """Of a server that lets everybody guess as often as they like: what it says is looked at, not how often."""
    unlimited = house.app.state.server.requests
    house.app.state.server = replace(house.app.state.server, sign_ins=unlimited, wrong_tokens=unlimited)
    return schemathesis.openapi.from_url(f"{house.url}/api/v1/openapi.json")


def somebody(house, role):
    """A person whom no other test misses, and a token of theirs."""
    user = User(secrets.token_hex(16), house.services.clock.now(), LOCAL_TEAM, secrets.token_hex(8), role, HASH)
    with house.services.database() as tx:
        tx.users.add(user)
    return user, {"Authorization": f"Bearer {house.token_of(user, tuple(Scope))}"}


def signed_in(house, user):
    """A session of theirs, as a browser has it."""
    with house.client() as client:
        client.post("/session", json={"team": "local", "name": user.name, "password": PASSWORD})
        me = client.get("/session")
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        return {"Cookie": cookies, "X-CSRF-Token": me.json()["csrf_token"]} if me.status_code == 200 else {}


def requests_to(operation):
    """Those that keep to the description, and, where there is anything to break, those that do not."""
    modes = [GenerationMode.POSITIVE]
    if operation.body or any(True for _ in operation.iter_parameters()):
        modes.append(GenerationMode.NEGATIVE)
    return [operation.as_strategy(generation_mode=mode) for mode in modes]


def made_real(case, things, route, depth):
    """The drawn request, aimed at things that exist, and in part what they would accept."""
    if depth >= 1 and case.path_parameters:
        case.path_parameters = {name: things.ids.get(name, value) for name, value in case.path_parameters.items()}
    if depth >= 2 and isinstance(case.body, dict) and route in things.bodies:
        wanted = things.bodies[route]
        case.body = wanted | {name: value for name, value in case.body.items() if depth == 3 or name not in wanted}
    if depth >= 2 and route in things.queries:
        case.query = dict(case.query or {}) | things.queries[route]
    return case


@pytest.mark.parametrize(("method", "path"), sorted(RIGHTS))
def test_no_input_breaks_a_route(house, description, method, path):
    operation, route = description[f"/api/v1{path}"][method], (method, path)
    people = [somebody(house, role) for role in Role]
    things = specimen(house, LOCAL_TEAM)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=st.one_of(requests_to(operation)), depth=st.integers(0, 3))
    def send(case, depth):
        case = made_real(case, things, route, depth)
        everybody = [{}, *(token for _, token in people)]
        if route in ENDS_THE_SESSION:
            everybody += [signed_in(house, people[0][0])]
        for headers in everybody:
            case.call_and_validate(headers=headers, checks=CHECKS)

    send()
