"""A person with a browser that has no JavaScript: pages are fetched and forms are sent as HTML says."""

from dataclasses import replace
from html.parser import HTMLParser

import httpx
from api_specimen import specimen

from auditor.contracts.base import canonical_json
from auditor.service.people import csrf_token_of
from auditor.service.records import LOCAL_TEAM
from auditor.service.states import TERMINAL
from auditor.testing.handlers import wait_for

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
VOID = frozenset(["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"])


class Element:
    """A node: tag, attributes, children, and the text directly in it."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children, self.parent = tag, attributes, [], None

    def get(self, name, default=None):
        return self.attributes.get(name, default)

    def all(self, *tags):
        """Every element below with one of these tags, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if not tags or child.tag in tags else []
                found += child.all(*tags)
        return found

    @property
    def text(self):
        return " ".join(
            "".join(child if isinstance(child, str) else f" {child.text} " for child in self.children).split()
        )

    def within(self, tag):
        """Whether it stands inside such an element."""
        return self.parent is not None and (self.parent.tag == tag or self.parent.within(tag))


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = self.here = Element("", {})

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs})
        element.parent = self.here
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}>"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def parsed(text):
    """The document; every element must be closed by its own tag."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.here is parser.root, f"<{parser.here.tag}> is not closed"
    return parser.root


class Visitor:
    """Somebody at the pages; nobody is signed in where there is no role."""

    def __init__(self, house, role=None, team=LOCAL_TEAM):
        self.client = httpx.Client(base_url=house.url, timeout=60)
        self.csrf = None
        if role is not None:
            people = house.app.state.server.people
            with house.services.database() as tx:
                own, user = tx.teams.get(team), tx.users.get(house.users[team, role].id)
            secret, _ = people.open_session(user, own)
            self.client.cookies.set("auditor_session", secret)
            self.csrf = csrf_token_of(secret)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def get(self, path, **more):
        return self.client.get(path, **more)

    def page(self, path):
        """The document at `path`, which must be there."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[-1500:])
        return parsed(answer.text)

    def post(self, path, fields=None, *, csrf=True, files=None):
        """Send a form with the token that its page carries."""
        own = {"csrf": self.csrf} if csrf and self.csrf else {}
        return self.client.post(path, data=own | (fields or {}), files=files)


def told(answer, status):
    """The page of an answer that must have this status."""
    assert answer.status_code == status, (answer.status_code, answer.text[-1500:])
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return parsed(answer.text)


def settle(house):
    """Wait until every job has ended, so that the server stops between jobs."""
    wait_for(lambda: all(view.state in TERMINAL for view in house.services.jobs.list(1000)))


def audited(house, report, gallery=None):
    """Ids of a team whose audit says what `report` says."""
    things, store = specimen(house, LOCAL_TEAM), house.services.store
    report = report.model_copy(update={"id": things.ids["report_id"]})
    with house.services.database() as tx:
        entry = tx.reports.find(things.ids["job_id"])
        digest = entry.gallery_digest if gallery is None else store.put_bytes(canonical_json(gallery).encode())
        tx.reports.add(
            replace(
                entry,
                digest=store.put_bytes(canonical_json(report).encode()),
                gallery_digest=digest,
                verdict=str(report.verdict.verdict),
                looser_policy=bool(report.policy.loosened()),
            )
        )
    return things.ids
