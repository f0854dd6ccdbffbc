"""What is sent of a submission: one file for the model, and one npz for each folder of images."""

from __future__ import annotations

from pathlib import Path

from auditor.contracts.manifest import Manifest
from auditor.data.bundles import save_bundle
from auditor.data.reading import read_image_set
from auditor.loading.external_data import gather_weights
from auditor.service.audits import SubmitRequest


def whole(path: Path, folder: Path) -> Path:
    """The model as one file: weights beside an ONNX file are gathered into it."""
    if path.suffix != ".onnx" or not any(path.parent.glob(f"{path.stem}*.data")):
        return path
    return gather_weights(path, folder / "model.onnx")


def packed(request: SubmitRequest, place: tuple[str, ...], path: Path, folder: Path) -> Path:
    """The file itself; a folder of images as an npz of them, read as the manifest says."""
    if not path.is_dir():
        return path
    role = place[1]
    spec = getattr(request.manifest.data, role)
    private = request.manifest.data.private
    names: tuple[str, ...] = ()
    if (
        role == "heldout"
        and private is not None
        and private.class_map is None
        and (request.base / private.path).is_dir()
    ):
        names = read_image_set(private, request.base, name="private", min_per_class=1).class_names
    found = read_image_set(spec, request.base, name=role, labelled=role != "public", min_per_class=1, classes=names)
    out = folder / f"{role}.npz"
    save_bundle(found, out)
    return out


def without_folder_keys(request: SubmitRequest) -> Manifest:
    """What a manifest says of a folder (class map, limit, keys) was applied when it was packed."""
    changes = {}
    for role in ("private", "heldout", "public"):
        spec = getattr(request.manifest.data, role)
        if spec is not None and (request.base / spec.path).is_dir():
            changes[role] = type(spec)(path=spec.path)
    data = request.manifest.data.model_copy(update=changes)
    return request.manifest.model_copy(update={"data": data, "policy": None})
