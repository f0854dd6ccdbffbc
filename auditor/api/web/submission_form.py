"""From the form of a new audit to what the API takes, with every problem found on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from auditor.api.server import Caller
from auditor.api.web.forms import Form, FormFile
from auditor.contracts.manifest import Manifest
from auditor.contracts.manifest_file import read_manifest
from auditor.contracts.problems import problems_in
from auditor.contracts.service import FileRef, NewAudit, NewUpload
from auditor.errors import InvalidInput
from auditor.service.accounts import Upload
from auditor.service.intake import FILES, paths_in

EXAMPLE = """\
model:
  name: my-model
plan:
  preset: quick
"""
ROLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "private": ("Private data: what the model was trained on", ("data", "private", "path")),
    "heldout": ("Held-out data: the same classes, never seen in training", ("data", "heldout", "path")),
    "public": ("Public data: what an attacker could own", ("data", "public", "path")),
    "generator": ("Generator, in one file", ("data", "generator", "path")),
    "mapping": ("Generator: mapping", ("data", "generator", "mapping")),
    "synthesis": ("Generator: synthesis", ("data", "generator", "synthesis")),
    "judge": ("Judge: an embedder of your own", ("data", "judge", "path")),
    "public_model": ("Public model that this one was tuned from", ("model", "public_model")),
    "weights": ("Public weights that a repair may start from", ("repair", "weights")),
}
"""Name of the field to what it is, and its place in the manifest."""
DATA_ROLES = ("private", "heldout", "public")
"""Those that may be named data sets."""
NO_MODEL = "0" * 32


@dataclass
class Typed:
    """What somebody typed and sent, kept while the form comes back with problems.

    Attributes:
        uploads: by field (`model` and the roles), what was sent already.
        sets: by role, the chosen data set.
    """

    manifest: str = EXAMPLE
    policy: str = ""
    fresh: bool = False
    uploads: dict[str, Upload] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)


def read_typed(caller: Caller, form: Form, problems: list[str]) -> Typed:
    """What the form says; its files become uploads, so that none has to be sent twice."""
    typed = Typed(form.text("manifest"), form.text("policy"), form.text("fresh") == "yes")
    own = form.files.get("manifest_file")
    if own is not None:
        try:
            typed.manifest = own.path.read_text("utf-8")
        except UnicodeDecodeError:
            problems.append(f"auditor.yaml: '{own.name}' is not UTF-8 text")
    for name in ("model", *ROLES):
        sent, kept = form.files.get(f"{name}_file"), form.text(f"{name}_upload")
        if sent is not None and not sent.size:
            problems.append(f"{name}: the file '{sent.name}' is empty")
        elif sent is not None:
            typed.uploads[name] = take(caller, sent)
        elif kept:
            with caller.transactions() as tx:
                upload = tx.uploads.find(id=kept)
            if upload is not None and upload.complete:
                typed.uploads[name] = upload
        if name in DATA_ROLES and form.text(f"{name}_set") and sent is None:
            typed.sets[name] = form.text(f"{name}_set")
    return typed


def take(caller: Caller, file: FormFile) -> Upload:
    """A file of a form as a finished upload."""
    uploads = caller.uploads
    announced = uploads.start(NewUpload(name=file.name, size=file.size, sha256=file.sha256))
    part = uploads.open_part(announced.id, 0)
    try:
        with file.path.open("rb") as handle:
            while data := handle.read(1 << 20):
                part.write(data)
    except BaseException:
        part.close()
        raise
    return uploads.close_part(announced.id, 0, part)


def request_of(caller: Caller, typed: Typed, problems: list[str]) -> NewAudit:
    """The request.

    Raises:
        InvalidInput: with `problems` and everything else that is wrong.
    """
    if "model" not in typed.uploads:
        problems.append("model: choose the model file")
    given = {name: _reference(typed, name) for name in ROLES if name in typed.uploads or name in typed.sets}
    try:
        manifest = _with_paths(_manifest(typed.manifest), given)
    except InvalidInput as error:
        raise InvalidInput([*problems, *error.problems], remedy=_REMEDY) from None
    places = paths_in(manifest)
    try:
        body = NewAudit(
            model=typed.uploads["model"].id if "model" in typed.uploads else NO_MODEL,
            manifest=manifest,
            files={places.get(ROLES[name][1], FILES[ROLES[name][1]]): reference for name, reference in given.items()},
            policy=typed.policy or None,
            fresh=typed.fresh,
        )
    except ValidationError as error:
        raise InvalidInput([*problems, *problems_in(error, NewAudit)], remedy=_REMEDY) from None
    if problems:
        try:
            with caller.intake.submission(body):
                pass
        except InvalidInput as error:
            problems += [line for line in error.problems if NO_MODEL not in line]
        raise InvalidInput(problems, remedy=_REMEDY)
    return body


_REMEDY = "Correct what is listed and send the form again; files that were sent are kept."


def _reference(typed: Typed, name: str) -> FileRef:
    if name in typed.sets:
        return FileRef.model_construct(data_set=typed.sets[name])  # a name that cannot be is one that is not there
    return FileRef(upload=typed.uploads[name].id)


def _manifest(text: str) -> Manifest:
    with tempfile.TemporaryDirectory(prefix="auditor-manifest-") as folder:
        path = Path(folder) / "auditor.yaml"
        path.write_text(text, "utf-8")
        return read_manifest(path)


def _with_paths(manifest: Manifest, given: Mapping[str, FileRef]) -> Manifest:
    """With a path for every data file that the form gives and the text does not mention."""
    value: dict[str, Any] = manifest.model_dump(mode="json")
    for name in given:
        place = ROLES[name][1]
        if name in DATA_ROLES and value["data"][name] is None:
            value["data"][name] = {"path": FILES[place]}
        elif name in ("public_model", "weights") and value[place[0]][place[1]] is None:
            value[place[0]][place[1]] = FILES[place]
    return Manifest.model_validate(value)
