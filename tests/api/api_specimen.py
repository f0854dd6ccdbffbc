"""One of everything that a team can own, fresh for each test, and the requests that work on it."""

import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

from api_house import PASSWORD

from auditor.contracts.base import canonical_json, digest_of
from auditor.contracts.jobs import AuditJob, JobKind, JobState, UnitResult, UnitSpec, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.people import Role
from auditor.contracts.policy import Policy, Verdict
from auditor.contracts.report import Gallery, GalleryRow
from auditor.service.accounts import (
    Baseline,
    DataSet,
    NamedPolicy,
    StoredWaiver,
    Token,
    Trail,
    Upload,
    User,
)
from auditor.service.records import Job, StoredReport, Submission, Unit
from auditor.testing.handlers import PLAN
from auditor.testing.reports import sample_repair_report, sample_report, sample_target

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"
GALLERY = Gallery(
    rows=(
        GalleryRow(
            label=3,
            name="<script>alert(1)</script>",
            attack="ppa",
            reconstructions_png=(PNG, PNG + b"2"),
            nearest_public_png=PNG + b"3",
            accepted=(True, False),
        ),
    )
)


@dataclass(frozen=True)
class Things:
    """What a team owns.

    Attributes:
        ids: path parameter to a value that exists.
        bodies: route to a body that works.
        queries: route to the query that works.
    """

    ids: dict
    bodies: dict
    queries: dict

    def known(self):
        """Every id and name, longest first."""
        return [self.ids[key] for key in sorted(self.ids) if key != "picture"]

    def with_unknown_ids(self):
        """The same requests for what nobody has; each id is as long as before."""
        ids = {
            key: value if key == "picture" else secrets.token_hex(len(value))[: len(value)]
            for key, value in self.ids.items()
        }
        bodies = dict(self.bodies)
        bodies["PUT", "/baselines/{model}"] = {"report": ids["report_id"]}
        bodies["PUT", "/policies/{name}"] = {"name": ids["name"]}
        return replace(self, ids=ids, bodies=bodies)

    def signed_for(self, house, user):
        """With the address of a picture that was given to `user`."""
        with house.client(token=house.tokens[user.team_id, user.role]) as client:
            rows = client.get(f"/reports/{self.ids['report_id']}/pictures")
        if rows.status_code != 200:
            return self
        query = parse_qs(urlsplit(rows.json()[0]["pictures"][0]["url"]).query)
        path = ("GET", "/reports/{report_id}/pictures/{picture}")
        return replace(self, queries=self.queries | {path: {name: value[0] for name, value in query.items()}})


def specimen(house, team, owner=Role.SUBMITTER):
    """A job that is done with report and pictures, a repair with a model, and one of everything else."""
    now, store = house.services.clock.now(), house.services.store
    job_id, repair_id, submission_id, upload_id, fresh_upload = (secrets.token_hex(16) for _ in range(5))
    user_id, token_id, waiver_id = (secrets.token_hex(16) for _ in range(3))
    name, model = f"n{secrets.token_hex(15)}", f"m{secrets.token_hex(15)}"
    text = sample_report(Verdict.FAIL).model_copy(update={"id": secrets.token_hex(32)})
    given = {"model": b"weights", "public.npz": b"public", "policy.json": canonical_json(Policy()).encode()}
    inputs = {name: store.put_bytes(content) for name, content in given.items()}
    left = {name: store.put_bytes(name.encode()) for name in ("fit.npz", "heldout_used.npz", "evaluator.safetensors")}
    model_digest = store.put_bytes(b"repaired")
    repair = sample_repair_report().model_copy(update={"id": secrets.token_hex(32), "model_digest": model_digest})
    gallery = store.put_bytes(canonical_json(GALLERY).encode())
    manifest = Manifest.model_validate({"model": {"name": model}})
    job = Job(
        id=job_id,
        kind=JobKind.AUDIT,
        name=model,
        submission_id=submission_id,
        fingerprint=secrets.token_hex(32),
        payload=AuditJob(name=model, plan=PLAN, inputs={"model": inputs["model"]}).model_dump(mode="json"),
        created_at=now,
        state=JobState.DONE,
        finished_at=now,
        team_id=team,
    )
    report = StoredReport(
        report_id=text.id,
        job_id=job_id,
        unit_key="finish",
        kind=JobKind.AUDIT,
        name=model,
        digest=store.put_bytes(canonical_json(text).encode()),
        gallery_digest=gallery,
        verdict="fail",
        level="high",
        created_at=now,
    )
    with house.services.database() as tx:
        target = sample_target(name=model)
        tx.submissions.add(Submission(submission_id, model, now, manifest, target, inputs, team))
        tx.jobs.add(job)
        begun_with = {"data": {"report.json": report.digest}}
        tx.jobs.add(
            replace(job, id=repair_id, kind=JobKind.REPAIR, fingerprint=secrets.token_hex(32), payload=begun_with)
        )
        done = {"prepare": (job_id, left), "k2/train": (repair_id, {"model": model_digest})}
        for key, (of_job, outputs) in done.items():
            unit = Unit(secrets.token_hex(16), of_job, 0, UnitSpec(kind=key.rpartition("/")[2], key=key))
            tx.units.add([unit])
            claimed = tx.units.claim(unit.id, worker="w", now=now, lease_until=now)
            assert claimed.state is UnitState.RUNNING
            assert tx.units.complete(claimed, UnitResult(outputs=outputs))
        tx.reports.add(report)
        tx.reports.add(
            replace(
                report,
                report_id=repair.id,
                job_id=repair_id,
                kind=JobKind.REPAIR,
                digest=store.put_bytes(canonical_json(repair).encode()),
                gallery_digest=None,
            )
        )
        tx.users.add(User(user_id, now, team, name, Role.SUBMITTER))
        own = house.users[team, owner].id
        tx.tokens.add(Token(token_id, now, team, own, name, secrets.token_hex(32), ("read",), now + timedelta(days=1)))
        tx.uploads.add(Upload(upload_id, now, team, name, 3, digest_of(b"abc"), "ann"))
        tx.uploads.add(Upload(fresh_upload, now, team, name, 3, store.put_bytes(b"abc"), "ann", 3, complete=True))
        tx.data_sets.add(DataSet(secrets.token_hex(16), now, team, name, {"data.npz": digest_of(b"abc")}, 3, "ann"))
        policy = Policy(name=name).model_dump(mode="json")
        tx.policies.add(NamedPolicy(secrets.token_hex(16), now, team, name, policy, "ann"))
        tx.baselines.add(
            Baseline(secrets.token_hex(16), now, team, model, text.id, job_id, "ann", digest=report.digest)
        )
        tx.waivers.add(
            StoredWaiver(waiver_id, now, team, "attack:ppa", model, "known and small", "ann", now + timedelta(days=1))
        )
        tx.trail.add(Trail(secrets.token_hex(16), now, team, "ann", "waiver.create", waiver_id))
    return Things(
        ids={
            "job_id": job_id,
            "repair_id": repair_id,
            "report_id": text.id,
            "submission_id": submission_id,
            "upload_id": upload_id,
            "user_id": user_id,
            "token_id": token_id,
            "waiver_id": waiver_id,
            "name": name,
            "model": model,
            "picture": "0-reconstruction-0",
        },
        bodies=_bodies(text.id, job_id, fresh_upload, name),
        queries={
            ("GET", "/reports/{report_id}/pictures/{picture}"): {"expires": 1, "signature": "x"},
            ("PUT", "/uploads/{upload_id}"): {"offset": 0},
        },
    )


def _bodies(report_id, job_id, upload, name):
    new = f"x{secrets.token_hex(8)}"
    password = "a long enough password"  # noqa: S105
    return {
        ("POST", "/bootstrap"): {"token": "aud_wrong", "name": new, "password": password},
        ("POST", "/session"): {"team": "local", "name": new, "password": password},
        ("PUT", "/session/password"): {"password": PASSWORD, "current": PASSWORD},
        ("POST", "/tokens"): {"name": new, "scopes": ["read"]},
        ("POST", "/users"): {"name": new, "role": "reviewer", "password": password},
        ("PATCH", "/users/{user_id}"): {"role": "reviewer"},
        ("POST", "/teams"): {"name": new, "admin": new, "password": password},
        ("PUT", "/retention"): {"pictures_days": 30},
        ("POST", "/uploads"): {"name": "m.onnx", "size": 3, "sha256": "a" * 64},
        ("POST", "/data-sets"): {"name": new, "upload": upload},
        ("POST", "/audits"): {"model": upload, "manifest": {"model": {"name": new}}},
        ("POST", "/remediations"): {"audit": job_id, "defense": "neg-ls"},
        ("PUT", "/policies/{name}"): {"name": name},
        ("PUT", "/baselines/{model}"): {"report": report_id},
        ("POST", "/waivers"): {"finding": "attack:ppa", "model": "m", "reason": "known and small", "days": 3},
    }
