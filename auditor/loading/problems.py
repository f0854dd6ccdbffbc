"""Collecting everything that is wrong with a submission, so that it is reported at once."""

from __future__ import annotations

from auditor.errors import InvalidInput, RefusedFile

ONNX_RECIPE = (
    "Export it to ONNX in one file: `torch.onnx.export(model.eval(), (example_images,), 'model.onnx', dynamo=False, "
    "dynamic_axes={'input': {0: 'batch'}}, input_names=['input'])`."
)
SAFETENSORS_RECIPE = (
    "Or save the bare weights where the model was made: `safetensors.torch.save_file(model.state_dict(), "
    "'model.safetensors')`, and name `model.architecture` in the manifest."
)
RECIPE = f"{ONNX_RECIPE} {SAFETENSORS_RECIPE}"


class Problems:
    """Problems found so far; refusals (safety) and plain ones together."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._remedies: list[str] = []
        self._refused = False

    def __len__(self) -> int:
        return len(self._found)

    def add(self, problem: str) -> None:
        """Something the user can correct."""
        if problem not in self._found:
            self._found.append(problem)

    def refuse(self, problem: str, recipe: str = RECIPE) -> None:
        """Something the auditor will not open, and how to convert it."""
        self._refused = True
        self.add(problem)
        if recipe not in self._remedies:
            self._remedies.append(recipe)

    def raise_any(self) -> None:
        """Raise RefusedFile or InvalidInput with everything found; nothing when nothing was."""
        if self._refused:
            raise RefusedFile(self._found, remedy=" ".join(self._remedies))
        if self._found:
            raise InvalidInput(self._found)
