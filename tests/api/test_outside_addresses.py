"""What the server opens is what it was sent, and what it tells is for its own pages and tokens."""

import json
import re

import httpx
import pytest
from api_house import problem
from api_specimen import specimen

from auditor.contracts.people import Role
from auditor.service.intake import FILES
from auditor.service.records import LOCAL_TEAM


@pytest.fixture(scope="module")
def things(house):
    return specimen(house, LOCAL_TEAM)


@pytest.mark.parametrize(
    "place", ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest", "s3://bucket/x"]
)
def test_paths_and_addresses_of_the_sender_are_never_opened(house, things, place):
    """Wherever a manifest names a file, it has to be among those that were sent."""
    size = {"channels": 1, "height": 16, "width": 16}
    data = {role: {"path": place} for role in ("private", "heldout", "public")}
    data["judge"] = {"path": place, "input": size}
    manifest = {
        "model": {"name": "reaching", "public_model": place},
        "data": data | {"generator": {"mapping": place, "synthesis": place} | size},
        "repair": {"weights": place},
    }
    other = {"model": {"name": "reaching"}, "data": {"generator": {"path": place} | size}}
    told = set()
    with house.client(Role.SUBMITTER) as client:
        for sent in (manifest, other):
            body = {"model": things.bodies["POST", "/audits"]["model"], "manifest": sent}
            problems = problem(client.post("/audits", json=body), 422, "invalid_input")["problems"]
            assert all(" no file is given for " in line for line in problems), problems
            told |= {line.partition(":")[0] for line in problems}
        assert told == {".".join(("manifest", *places)) for places in FILES}
        started = client.post("/remediations", json={"audit": things.ids["report_id"], "weights": place})
        problem(started, 422, "invalid_input")


def test_no_other_field_of_a_request_is_a_path_or_an_address(house):
    """A new one has to be looked at, and to be listed here or in `FILES`."""
    schemas = httpx.get(f"{house.url}/api/v1/openapi.json").json()["components"]["schemas"]
    fields = {
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, described in schema.get("properties", {}).items()
        if re.search(r"url|uri|path|host|endpoint|address|webhook|callback|file", field, re.I)
        or '"format": "path"' in json.dumps(described)
    }
    inside = {"DataSpec.path", "JudgeSpec.path", "ModelSpec.public_model"}
    inside |= {f"GeneratorSpec.{name}" for name in ("path", "mapping", "synthesis")}
    assert fields == inside | {"NewAudit.files", "Picture.url"}, "files: uploads by id; url: given, not taken"


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/session", "/sign-in", "/healthz"])
def test_other_sites_may_read_nothing(house, path):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    for method in ("OPTIONS", "GET", "POST"):
        answer = httpx.request(method, house.url + path, headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control")], method
