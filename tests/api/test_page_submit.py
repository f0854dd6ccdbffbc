"""Submitting from a page: all problems at once, nothing typed or sent twice, and hostile forms."""

import hashlib
import secrets
from urllib.parse import urlsplit

import pytest
from api_house import good
from pages_house import Visitor, settle, told

from auditor.contracts.people import Role
from auditor.testing.handlers import wait_for

MANIFEST = "model:\n  name: {}\n"


@pytest.fixture(scope="module", autouse=True)
def _settled(house):
    yield
    settle(house)


@pytest.fixture
def visitor(house):
    with Visitor(house, Role.SUBMITTER) as visitor:
        yield visitor


def problems(answer, status=422):
    """What a form that came back lists."""
    root = told(answer, status)
    (box,) = [item for item in root.all("section") if item.get("class") == "problems"]
    return root, [item.text for item in box.all("li")]


def submissions(house):
    with house.services.database() as tx:
        return len(tx.submissions.page(100_000))


def test_a_form_becomes_an_audit_with_its_files_and_data_sets(house, visitor):
    name = f"people-{secrets.token_hex(4)}"
    assert visitor.post("/data-sets", {"name": name}, files={"file": ("p.npz", b"private")}).status_code == 303
    files = {
        "model_file": ("../../m.onnx", b"weights"),
        "public_file": ("pub.npz", b"public"),
        "manifest_file": ("auditor.yaml", MANIFEST.format("from-page").encode()),
    }
    answer = visitor.post("/submit", {"manifest": "ignored", "private_set": name, "fresh": "yes"}, files=files)
    assert answer.status_code == 303, answer.text[-2000:]
    job = urlsplit(answer.headers["location"]).path
    wait_for(lambda: "Read the report" in visitor.page(job).text)
    with house.services.database() as tx:
        submission = tx.submissions.get(tx.jobs.get(job.rpartition("/")[2]).submission_id)
    data = submission.manifest.data
    assert (data.private.path.as_posix(), data.public.path.as_posix()) == ("private.npz", "public.npz")
    with house.client(Role.SUBMITTER) as client:
        uploads = [row["name"] for row in good(client.get("/uploads"))["items"]]
    assert {"m.onnx", "pub.npz"} <= set(uploads), "a name is text, and never a path"
    again = visitor.post("/submit", {"manifest": MANIFEST.format("from-page"), "private_set": name}, files={
        "model_file": ("m.onnx", b"weights"), "public_file": ("pub.npz", b"public")})  # fmt: skip
    assert again.headers["location"] == f"{job}?done=reused"


def test_a_data_set_of_a_page_leaves_nothing_when_it_is_removed(house, visitor):
    name, data = f"people-{secrets.token_hex(4)}", secrets.token_bytes(8)
    digest = hashlib.sha256(data).hexdigest()
    assert visitor.post("/data-sets", {"name": name}, files={"file": ("p.npz", data)}).status_code == 303
    with house.services.database() as tx:
        assert digest in tx.references.mentioned()
        assert tx.uploads.find(sha256=digest) is None
    assert visitor.post(f"/data-sets/{name}/remove", {}).status_code == 303
    with house.services.database() as tx:
        assert digest not in tx.references.mentioned()


def test_everything_that_is_wrong_is_listed_and_what_was_typed_is_kept(house, visitor):
    before = submissions(house)
    text = (
        MANIFEST.format("kept") + "data:\n  judge:\n    path: j.onnx\n    input: {channels: 1, height: 8, width: 8}\n"
    )
    fields = {"manifest": text, "private_set": "nowhere", "policy": "no-such", "fresh": "yes"}
    files = {"public_file": ("pub.npz", b"public"), "heldout_file": ("h.npz", b"")}
    root, lines = problems(visitor.post("/submit", fields, files=files))
    assert len(lines) == 5, lines
    for part in ("choose the model file", "'h.npz' is empty", "data.judge.path", "set 'nowhere'", "policy 'no-such'"):
        assert any(part in line for line in lines), part
    assert next(item for item in root.all("textarea")).text.split() == text.split()
    kept = {item.get("name"): item.get("value") for item in root.all("input")}
    assert kept["public_upload"]
    assert "checked" in next(item for item in root.all("input") if item.get("name") == "fresh").attributes
    chosen = {item.text for item in root.all("option") if "selected" in item.attributes}
    assert {"nowhere", "no-such"} <= chosen
    fields = {"manifest": MANIFEST.format("kept"), "public_upload": kept["public_upload"]}
    answer = visitor.post("/submit", fields, files={"model_file": ("m.onnx", b"weights")})
    assert answer.status_code == 303
    assert submissions(house) == before + 1


def test_a_bad_manifest_is_told_by_line(visitor):
    text = "model:\n  nam: x\nplan:\n  preset: fast\n  preset: slow\n"
    root, lines = problems(visitor.post("/submit", {"manifest": text}, files={"model_file": ("m.onnx", b"w")}))
    assert any("auditor.yaml:2" in line and "did you mean 'name'?" in line for line in lines)
    assert any("stands twice" in line for line in lines)
    assert "✓ Kept: m.onnx" in root.text


def test_a_model_that_is_refused_comes_back_with_every_reason(house, visitor):
    before = submissions(house)
    answer = visitor.post("/submit", {"manifest": MANIFEST.format("refused")}, files={"model_file": ("m.onnx", b"w")})
    _, lines = problems(answer)
    assert lines == ["the model is not a model", "the data is not data"]
    assert submissions(house) == before


def test_uploads_of_another_team_cannot_be_named(house, visitor):
    with house.client(Role.SUBMITTER, "0" * 31 + "2") as client:
        theirs = house.upload(client, b"their weights")
    answer = visitor.post("/submit", {"manifest": MANIFEST.format("theft"), "model_upload": theirs})
    assert problems(answer)[1] == ["model: choose the model file"]


def raw(visitor, body, kind="multipart/form-data; boundary=b"):
    return visitor.client.post("/submit", content=body, headers={"content-type": kind})


def part(name, value, file=None):
    named = f'; filename="{file}"' if file is not None else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n{value}\r\n'.encode()


def test_no_file_is_taken_before_the_token(house, visitor):
    body = part("model_file", "weights", "m.onnx") + part("csrf", visitor.csrf) + b"--b--\r\n"
    assert "not made for this session" in told(raw(visitor, body), 403).text
    scratch = house.settings.home / "scratch"
    assert not list(scratch.glob("form-*"))


def test_files_and_fields_over_the_limit_are_refused(house, visitor):
    large = "x" * (house.settings.max_upload_bytes + 1)
    body = part("csrf", visitor.csrf) + part("model_file", large, "m.onnx") + b"--b--\r\n"
    assert "larger than" in told(raw(visitor, body), 413).text
    body = part("csrf", visitor.csrf) + part("manifest", "x" * (3 << 20)) + b"--b--\r\n"
    assert told(raw(visitor, body), 413)
    assert told(raw(visitor, b"csrf=" + b"x" * (3 << 20), "application/x-www-form-urlencoded"), 413)
    many = b"".join(part(f"f{index}", "") for index in range(200))
    assert told(raw(visitor, part("csrf", visitor.csrf) + many + b"--b--\r\n"), 422)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"nonsense", "multipart/form-data; boundary=b"),
        (b'--b\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n\xff\xfe\r\n--b--\r\n', None),
        (b"csrf=%00", "application/x-www-form-urlencoded"),
        (b"csrf=%ff", "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(1000)), "application/x-www-form-urlencoded"),
    ],
)
def test_what_is_no_form_is_refused(visitor, body, kind):
    answer = raw(visitor, body, kind or "multipart/form-data; boundary=b")
    assert answer.status_code in (403, 422)
    assert told(answer, answer.status_code)


def test_control_characters_in_names_of_files_are_left_out(house, visitor):
    body = part("csrf", visitor.csrf) + part("file", "abc", "a\tb<i>.npz") + part("name", "x y") + b"--b--\r\n"
    answer = visitor.client.post(
        "/data-sets", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert len(problems(answer)[1]) == 1
