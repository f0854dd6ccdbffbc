"""The examples in the API's description: every body has one, and each is what its route takes or gives."""

import json

import pytest
from api_house import good
from api_specimen import specimen
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from auditor.api.app import ROUTERS
from auditor.api.examples import ANSWERS, BODIES
from auditor.contracts.people import Role
from auditor.service.records import LOCAL_TEAM

ROUTES = {
    (method, route.path): route
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
}
TAKING = {key: route for key, route in ROUTES.items() if route.body_field is not None}
GIVING = {key: route for key, route in ROUTES.items() if route.response_model is not None}


def test_every_body_has_an_example_and_no_other():
    assert BODIES.keys() == TAKING.keys()
    assert ANSWERS.keys() == GIVING.keys()


@pytest.mark.parametrize("key", sorted(TAKING))
def test_a_request_is_what_its_route_takes(key):
    """As strictly as the guard reads it."""
    TAKING[key].body_field.field_info.annotation.model_validate_json(json.dumps(BODIES[key]), strict=True)


@pytest.mark.parametrize("key", sorted(GIVING))
def test_an_answer_is_what_its_route_gives(key):
    """And is written as the route would write it, with nothing left out."""
    kind = TypeAdapter(GIVING[key].response_model)
    answer = kind.validate_json(json.dumps(ANSWERS[key]), strict=True)
    assert kind.dump_python(answer, mode="json") == ANSWERS[key]


def test_the_description_shows_them_all(house):
    with house.client() as client:
        paths = good(client.get("/openapi.json"))["paths"]
    shown = {"requests": {}, "answers": {}}
    for path, operations in paths.items():
        for method, operation in operations.items():
            key = method.upper(), path.removeprefix("/api/v1")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            shown["requests"] |= {key: body["example"]} if "example" in body else {}
            for answer in operation["responses"].values():
                told = answer.get("content", {}).get("application/json", {})
                shown["answers"] |= {key: told["example"]} if "example" in told else {}
    assert shown == {"requests": BODIES, "answers": ANSWERS}


@pytest.mark.parametrize(
    "key", [("POST", "/uploads"), ("PUT", "/policies/{name}"), ("PUT", "/retention"), ("POST", "/waivers")]
)
def test_requests_that_need_nothing_beforehand_work_as_they_stand(house, key):
    """And are answered with the fields that the example of the answer has."""
    method, path = key
    with house.client(Role.ADMIN) as client:
        answer = good(client.request(method, path.replace("{name}", BODIES[key].get("name", "")), json=BODIES[key]))
    assert answer.keys() == ANSWERS[key].keys()


def test_answers_are_of_the_kind_that_the_server_gives(house):
    """Every GET that can be asked of a specimen has the keys of its example, all the way down the first item."""
    things = specimen(house, LOCAL_TEAM)
    with house.client(Role.ADMIN) as client:
        for method, path in sorted(GIVING):
            if method == "GET":
                answer = good(client.get(path.format(**things.ids)))
                assert keys_of(answer) == keys_of(ANSWERS[method, path]), path


def keys_of(value):
    """Names of fields, of a page those of its first item as well."""
    if isinstance(value, list):
        return keys_of(value[0])
    inner = keys_of(value["items"]) if "items" in value else set()
    return {*value, *inner}
