"""From uploaded files and a manifest to a submission: the server reads no path that somebody sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from auditor.contracts.manifest import PUBLISHED, Manifest
from auditor.contracts.policy import Policy
from auditor.contracts.service import FileRef, NewAudit
from auditor.errors import InvalidInput
from auditor.service.audits import SubmitRequest
from auditor.service.people import Identity
from auditor.service.policies import policy_in, problems_of_given
from auditor.service.ports import ArtifactStore
from auditor.service.repositories import Database, UnitOfWork
from auditor.service.scratch import own_folder

FILES: Mapping[tuple[str, ...], str] = {
    ("model", "public_model"): "public-model",
    ("data", "private", "path"): "private.npz",
    ("data", "heldout", "path"): "heldout.npz",
    ("data", "public", "path"): "public.npz",
    ("data", "generator", "path"): "generator.onnx",
    ("data", "generator", "mapping"): "generator-mapping.onnx",
    ("data", "generator", "synthesis"): "generator-synthesis.onnx",
    ("data", "judge", "path"): "judge.onnx",
    ("repair", "weights"): "weights.safetensors",
}
"""Every path of a manifest, and the name its file has on the server."""


def paths_in(manifest: Manifest) -> dict[tuple[str, ...], str]:
    """The paths that a manifest names, by their place in it."""
    value = manifest.model_dump(mode="json")
    found = {place: _at(value, place) for place in FILES}
    return {place: path for place, path in found.items() if path and not path.startswith(PUBLISHED)}


def _at(value: Any, place: tuple[str, ...]) -> str | None:
    for key in place:
        value = None if value is None else value[key]
    return None if value is None else str(value)


class Intake:
    """Makes submissions of uploads.

    Args:
        database: the database.
        store: the files.
        me: who submits.
        scratch: folder for the files of submissions that are being checked.
    """

    def __init__(self, *, database: Database, store: ArtifactStore, me: Identity, scratch: Path) -> None:
        self._transactions = database.of_team(me.team.id)
        self._store = store
        self._me = me
        self._scratch = scratch

    @contextmanager
    def submission(self, request: NewAudit) -> Iterator[SubmitRequest]:
        """The submission, whose files lie in a folder for as long as the block lasts.

        Raises:
            InvalidInput: with every path that stands for nothing, and every file that is not there.
        """
        places = paths_in(request.manifest)
        files = {str(Path(path)): reference for path, reference in request.files.items()}  # `x/` is written `x` there
        wanted = {place: files.get(path) for place, path in places.items()}
        problems = [
            f"manifest.{'.'.join(place)}: no file is given for '{places[place][:200]}'"
            for place, reference in wanted.items()
            if reference is None
        ]
        unused = files.keys() - set(places.values())
        problems += [f"files: the manifest names no path '{path[:200]}'" for path in sorted(unused)]
        with self._transactions() as tx:
            digests = {
                FILES[place]: _digest(tx, reference, f"files['{places[place][:200]}']", problems)
                for place, reference in wanted.items()
                if reference is not None
            }
            digests["model"] = _digest(tx, FileRef(upload=request.model), "model", problems)
            try:
                policy = _policy(tx, request, problems)
            except InvalidInput as error:
                problems += [f"policy: {problem}" for problem in error.problems]
        if problems:
            raise InvalidInput(problems, remedy="Correct what is listed; files are uploaded, then named under `files`.")
        with own_folder(self._scratch, "submission") as name:
            base = Path(name)
            for file, digest in digests.items():
                self._store.get_path(digest, base / file)
            yield SubmitRequest(
                model=base / "model",
                manifest=_rewritten(request.manifest, places),
                base=base,
                policy=policy,
                fresh=request.fresh,
                budget_s=request.budget_s,
                team_id=self._me.team.id,
                priority=request.priority,
            )


def _digest(tx: UnitOfWork, reference: FileRef, where: str, problems: list[str]) -> str:
    """The artifact that a reference means; a problem where it means none."""
    if (reference.upload is None) == (reference.data_set is None):
        problems.append(f"{where}: give either `upload` or `data_set`")
    elif reference.upload is not None:
        upload = tx.uploads.find(id=reference.upload)
        if upload is not None and upload.complete:
            return upload.sha256
        state = "does not exist" if upload is None else f"is not complete ({upload.received} of {upload.size} bytes)"
        problems.append(f"{where}: the upload '{reference.upload}' {state}")
    else:
        data_set = tx.data_sets.find(name=reference.data_set)
        if data_set is not None:
            return data_set.digests["data.npz"]
        problems.append(f"{where}: there is no data set '{reference.data_set}'")
    return ""


def _policy(tx: UnitOfWork, request: NewAudit, problems: list[str]) -> Policy:
    if isinstance(request.policy, str):
        stored = tx.policies.find(name=request.policy)
        if stored is None:
            if request.policy != Policy().name:
                problems.append(f"policy: there is no policy '{request.policy}'")
            return Policy()
        kept = policy_in(stored)
        if kept.label != kept.name:  # older versions kept them
            problems.append(f"policy: '{kept.name}' of your team would be told as '{kept.label}': give it another name")
        return kept
    given = request.policy or request.manifest.policy or Policy()
    problems += [f"policy: {problem}" for problem in problems_of_given(tx, given)]
    return given


def _rewritten(manifest: Manifest, places: Mapping[tuple[str, ...], str]) -> Manifest:
    """The manifest with the server's own names in place of paths."""
    value = manifest.model_dump(mode="json")
    for place in places:
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = FILES[place]
    return Manifest.model_validate(value)
