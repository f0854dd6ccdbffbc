"""Pictures of the audit after a repair: beside those before, coarse until asked for, each look written down."""

import secrets
from dataclasses import replace

import pytest
from api_house import OTHERS, good, problem
from api_specimen import specimen
from pages_house import Visitor, settle, told

from auditor.contracts.base import canonical_json
from auditor.contracts.people import Role
from auditor.contracts.policy import Verdict
from auditor.contracts.report import Gallery
from auditor.service.records import LOCAL_TEAM
from auditor.testing.reports import sample_gallery, sample_repair_report, sample_report


@pytest.fixture(scope="module", autouse=True)
def _settled(house):
    yield
    settle(house)


@pytest.fixture
def reviewer(house):
    with Visitor(house, Role.REVIEWER) as visitor:
        yield visitor


class Repaired:
    """An audit and its repair, whose after-audit and candidate have pictures of their own.

    Attributes:
        before: gallery of the audit: persons 0 to 5.
        after: of the audit after: persons 0 to 4 in another order, and person 9.
        ids: of the reports, by role; `repair` is the repair's job.
    """

    def __init__(self, house, team=LOCAL_TEAM):
        self.house = house
        rows = sample_gallery(n_rows=12, per_row=2).rows
        self.before = Gallery(rows=rows[:6])
        turned = [rows[5 - n].model_copy(update={"label": n, "name": rows[n].name}) for n in (4, 3, 2, 1, 0)]
        self.after = Gallery(rows=(*turned, rows[9]))
        things = specimen(house, team)
        self.ids = {"audit": things.ids["job_id"], "repair": secrets.token_hex(16)}
        with house.services.database() as tx:
            audit, repair = (tx.reports.find(things.ids[name]) for name in ("job_id", "repair_id"))
            begun_with = {"data": {"report.json": self.add(tx, audit, "before", self.before)}}
            job = tx.jobs.get(repair.job_id)
            tx.jobs.add(replace(job, id=self.ids["repair"], fingerprint=secrets.token_hex(32), payload=begun_with))
            repair = replace(repair, job_id=self.ids["repair"], report_id=secrets.token_hex(32))
            self.add(tx, replace(audit, job_id=repair.job_id, unit_key="after/finish"), "after", self.after)
            self.add(tx, replace(audit, job_id=repair.job_id, unit_key="before/finish"), "quick", self.before)
            self.add(tx, replace(audit, job_id=repair.job_id, unit_key="k2/finish"), "candidate", self.after)
            report = sample_repair_report(chosen=2)
            candidates = (report.candidates[0].model_copy(update={"report_id": self.ids["candidate"]}),)
            report = report.model_copy(
                update={
                    "id": repair.report_id,
                    "before_report_id": self.ids["before"],
                    "after_report_id": self.ids["after"],
                    "before_quick_report_id": self.ids["quick"],
                    "candidates": (*candidates, *report.candidates[1:]),
                }
            )
            digest = house.services.store.put_bytes(canonical_json(report).encode())
            tx.reports.add(replace(repair, unit_key="compare", digest=digest))

    def add(self, tx, entry, role, gallery):
        report = sample_report(Verdict.FAIL).model_copy(update={"id": secrets.token_hex(32)})
        store = self.house.services.store
        self.ids[role] = report.id
        digest = store.put_bytes(canonical_json(report).encode())
        pictures = store.put_bytes(canonical_json(gallery).encode())
        tx.reports.add(replace(entry, report_id=report.id, digest=digest, gallery_digest=pictures))
        return digest


@pytest.fixture
def repaired(house):
    return Repaired(house)


def looks(house, report_id):
    with house.services.database() as tx:
        return [line.detail["picture"] for line in tx.trail.page(50) if line.subject == report_id]


def images(root, side):
    """Sources of the pictures on one side, by their names."""
    figures = [item for item in root.all("figure") if item.get("id", "").startswith(f"p-{side}-")]
    return {figure.get("id")[2:]: figure.all("img")[0] for figure in figures}


@pytest.mark.parametrize("role", ["after", "candidate", "quick", "before"])
def test_the_api_has_the_pictures_of_every_audit_of_a_repair(house, repaired, role):
    gallery = repaired.after if role in ("after", "candidate") else repaired.before
    with house.client(Role.REVIEWER) as client, house.client(Role.ADMIN) as admin:
        assert good(client.get(f"/reports/{repaired.ids[role]}/entry"))["has_pictures"]
        rows = good(client.get(f"/reports/{repaired.ids[role]}/pictures"))
        assert [row["name"] for row in rows] == [row.name for row in gallery.rows]
        address = house.url + rows[1]["pictures"][1]["url"]
        assert client.get(address).content == gallery.rows[1].reconstructions_png[1]
        assert looks(house, repaired.ids[role]) == ["1-reconstruction-1"]
        problem(admin.get(address), 403, "not_allowed")  # it was given to someone else
        other = repaired.ids["quick" if role == "before" else "before"]
        own = address.split("/reports/")[1].partition("/")[0]
        problem(client.get(address.replace(own, other)), 403, "not_allowed")
    with house.client(Role.SUBMITTER) as client:
        problem(client.get(f"/reports/{repaired.ids[role]}/pictures"), 403, "not_allowed")
    with house.client(Role.ADMIN, OTHERS) as client:
        problem(client.get(f"/reports/{repaired.ids[role]}/pictures"), 404, "not_found")


def test_the_page_of_the_audit_after_opens_its_pictures(repaired, reviewer):
    root = reviewer.page(f"/audits/{repaired.ids['after']}")
    (link,) = [item.get("href") for item in root.all("a") if item.text == "Open the pictures"]
    assert len(reviewer.page(link).all("img")) == 6 * 3


@pytest.mark.parametrize("address", ["/repairs/{repair}", "/compare?before={before}&after={after}"])
def test_before_and_after_stand_side_by_side_and_are_coarse(house, repaired, reviewer, address):
    root = reviewer.page(address.format(**repaired.ids))
    sections = [item for item in root.all("section") if item.get("class") == "beside"]
    assert [item.all("h3")[0].text.split()[0] for item in sections] == [row.name for row in repaired.before.rows[:4]]
    for section in sections:
        before, after = images(section, "before"), images(section, "after")
        assert len(before) == len(after) == 3
        assert all(image.get("class") == "coarse" for image in (*before.values(), *after.values()))
        assert all(len(image.get("src")) < 400 for image in (*before.values(), *after.values()))
    (more,) = [item for item in root.all("a") if "side by side" in item.text]
    assert more.text.startswith("All 7 ")
    assert looks(house, repaired.ids["before"]) == looks(house, repaired.ids["after"]) == []


def test_a_look_at_either_is_asked_for_and_written_down(house, repaired, reviewer):
    """Each side by the pictures of its own report, although the rows stand in another order."""
    root = reviewer.page(f"/repairs/{repaired.ids['repair']}")
    beside = [item for item in root.all("section") if item.get("class") == "beside"]
    (section,) = [item for item in beside if "person-001" in item.text]
    asked = [item.get("href").partition("#")[0] for item in section.all("a") if item.get("class") == "show"]
    before, after = asked[0], asked[3]
    assert "before-1-" in before
    assert "after-3-" in after
    root = reviewer.page(f"{before}&show=after-3-reconstruction-0")
    clear = {item.get("alt"): item.get("src") for item in root.all("img") if item.get("class") == "clear"}
    assert list(clear) == ["Reconstruction 1 of person-001, before", "Reconstruction 1 of person-001, after"]
    assert looks(house, repaired.ids["after"]) == [], "the page alone is no look"
    contents = [reviewer.get(address).content for address in clear.values()]
    assert contents == [repaired.before.rows[1].reconstructions_png[0], repaired.after.rows[3].reconstructions_png[0]]
    assert looks(house, repaired.ids["before"]) == ["1-reconstruction-0"]
    assert looks(house, repaired.ids["after"]) == ["3-reconstruction-0"]


def test_classes_that_one_audit_alone_shows_say_so(repaired, reviewer):
    root = reviewer.page(f"/compare/pictures?before={repaired.ids['audit']}&after={repaired.ids['after']}")
    said = {
        item.all("h3")[0].text.split()[0]: item.text.count("kept no picture of this class")
        for item in root.all("section")
        if item.get("class") == "beside"
    }
    assert said == {f"person-00{n}": int(n in (5, 9)) for n in (0, 1, 2, 3, 4, 5, 9)}


def test_an_index_that_is_another_person_by_now_is_no_pair(house, repaired, reviewer):
    rows = (repaired.after.rows[0].model_copy(update={"name": "somebody else"}),)
    with house.services.database() as tx:
        repaired.add(tx, tx.reports.find(repaired.ids["after"]), "after", Gallery(rows=rows))
    root = reviewer.page(f"/compare/pictures?before={repaired.ids['before']}&after={repaired.ids['after']}")
    assert root.text.count("kept no picture of this class") == 7


def test_candidates_are_shown_under_the_quick_plan(repaired, reviewer):
    root = reviewer.page(f"/repairs/{repaired.ids['repair']}")
    links = [item for item in root.all("a") if item.text.startswith("Boundary")]
    assert [link.text for link in links] == ["Boundary 2"], "those whose audits the team has"
    assert len(reviewer.page(links[0].get("href")).all("img")) == 6 * 3 + 6 * 3


def test_pictures_that_retention_deleted_are_said_to_be_gone(house, repaired, reviewer):
    with house.services.database() as tx:
        tx.reports.without_pictures(tx.reports.find(repaired.ids["after"]).job_id)
    for address in (f"/repairs/{repaired.ids['repair']}", f"/compare/pictures?before={repaired.ids['before']}"):
        query = f"&after={repaired.ids['after']}" if "?" in address else ""
        root = reviewer.page(address + query)
        assert "The audit after has none" in root.text
        assert images(root, "before")
        assert not images(root, "after")
    with house.client(Role.REVIEWER) as client:
        problem(client.get(f"/reports/{repaired.ids['after']}/pictures"), 404, "not_found")


def test_who_is_no_reviewer_sees_none(house, repaired):
    compare = f"before={repaired.ids['before']}&after={repaired.ids['after']}"
    with Visitor(house, Role.SUBMITTER) as visitor:
        for address in (f"/repairs/{repaired.ids['repair']}", f"/compare?{compare}"):
            root = visitor.page(address)
            assert not root.all("img")
            assert "compare/pictures" not in visitor.get(address).text
        assert "this takes the role 'reviewer'" in told(visitor.get(f"/compare/pictures?{compare}"), 403).text


def test_another_teams_pictures_are_not_there(house, repaired):
    theirs = Repaired(house, OTHERS)
    with Visitor(house, Role.REVIEWER, OTHERS) as visitor:
        for one, other in ((repaired, theirs), (theirs, repaired)):
            address = f"/compare/pictures?before={one.ids['before']}&after={other.ids['after']}"
            assert "Not found" in told(visitor.get(address), 404).text


def test_a_repair_is_shown_with_its_own_audits_whatever_ran_later_under_their_ids(house, repaired, reviewer):
    with house.services.database() as tx:
        twin = tx.reports.find(repaired.ids["after"])
        job = replace(tx.jobs.get(twin.job_id), id=secrets.token_hex(16), fingerprint=secrets.token_hex(32))
        tx.jobs.add(job)
        later = house.services.store.put_bytes(canonical_json(sample_report(Verdict.PASS)).encode())
        tx.reports.add(replace(twin, job_id=job.id, digest=later, gallery_digest=None))
    links = [link.get("href") for link in reviewer.page(f"/repairs/{repaired.ids['repair']}").all("a")]
    assert f"/audits/{twin.digest}" in links
    assert not [link for link in links if later in link]
