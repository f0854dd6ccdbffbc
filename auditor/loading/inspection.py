"""Looking at a submission: what it is, whether it is sound, and which access levels can be audited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of_file
from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.contracts.submission import ModelFormat, Output, ParityCheck, TargetCard
from auditor.errors import InvalidInput, UnknownName, UnsupportedModel
from auditor.loading.answers import folded_answers
from auditor.loading.digests import graph_digest, tensors_digest, weights_digest
from auditor.loading.onnx_file import OnnxFile, describe_onnx, parse_onnx
from auditor.loading.probe import (
    check_parity,
    looks_like_log_probabilities,
    looks_like_probabilities,
    output_problems,
    probe_images,
)
from auditor.loading.problems import Problems
from auditor.loading.sniff import sniff
from auditor.loading.weights_file import build_with_weights, head_classes, read_weights
from auditor.targets.architectures import architecture_names
from auditor.targets.onnx_graph import GraphModule, interpret, unsupported_operators
from auditor.targets.onnx_graph.head import reveal_logits
from auditor.targets.ort_session import OrtSession
from auditor.targets.preprocess import Preprocess

WHITE_BOX_ACCESS = (Access.WHITE_BOX, Access.SCORE, Access.LABEL)
SCORE_ACCESS = (Access.SCORE, Access.LABEL)

_OUTPUT_CONTROLS = frozenset({"Round", "Floor", "Ceil", "ArgMax", "TopK", "OneHot"})
"""Operators that, behind the last layer, cut or round the scores."""

_FOLDED = (
    "the graph holds no norms: where the model had batch norms, the exporter folded them into the convolutions; layers "
    "are then named after the graph's nodes, and a repair puts the norms back"
)


def inspect_model(path: Path, spec: ModelSpec) -> TargetCard:
    """Read the model file at `path` as the manifest's `spec` says, and describe it.

    Nothing in the file is run as code. Everything that is wrong is reported together.

    Raises:
        RefusedFile: a format that could run code, or a file that breaks a safety limit; the remedy says how to convert.
        InvalidInput: anything else that is wrong with the file or the spec.
    """
    problems = Problems()
    _check_architecture(spec, problems)
    kind = sniff(path, problems)
    if kind is None:
        problems.raise_any()
        raise InvalidInput("the file's format could not be told")
    if kind is ModelFormat.ONNX:
        return _inspect_onnx(path, spec, problems)
    return _inspect_weights(path, kind, spec, problems)


def _check_architecture(spec: ModelSpec, problems: Problems) -> None:
    if spec.architecture is not None and spec.architecture not in architecture_names():
        problems.add(f"architecture '{spec.architecture}' is not on the allow-list: {', '.join(architecture_names())}")


def _inspect_onnx(path: Path, spec: ModelSpec, problems: Problems) -> TargetCard:
    model = parse_onnx(path, problems)
    found = describe_onnx(model, spec.input, spec.n_classes, problems) if model is not None else None
    if found is None:
        problems.raise_any()
        raise InvalidInput("the ONNX file could not be described")
    trial = _try_onnx(found, problems)
    if trial is not None:
        _check_classes(trial.scores, spec, found.inferred, problems)
    problems.raise_any()
    if trial is None:
        raise InvalidInput("the ONNX file could not be run")
    module = trial.module
    constants = {
        name: torch.from_numpy(array.copy()) for name, array in found.graph.constants.items() if array.dtype.kind == "f"
    }
    return TargetCard(
        name=spec.name,
        format=ModelFormat.ONNX,
        digest=digest_of_file(path),
        weights_digest=tensors_digest(constants) if module is None else weights_digest(module),
        answers=trial.answers,
        architecture=spec.architecture or f"onnx:{graph_digest(found.model)}",
        n_classes=int(trial.scores.shape[1]),
        input=found.input,
        output=trial.output,
        n_parameters=sum(t.numel() for t in (constants.values() if module is None else module.parameters())),
        access=SCORE_ACCESS if module is None or not trial.parity_passed else WHITE_BOX_ACCESS,
        parity=trial.parity,
        unsupported_operators=trial.unsupported,
        inferred=found.inferred,
        warnings=trial.warnings,
    )


@dataclass(frozen=True)
class _Trial:
    """What came out of running an ONNX graph both ways."""

    scores: Tensor
    output: Output
    answers: tuple[float, ...]
    module: GraphModule | None
    parity: ParityCheck | None
    unsupported: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def parity_passed(self) -> bool:
        return self.parity is not None and self.parity.passed


def _try_onnx(found: OnnxFile, problems: Problems) -> _Trial | None:
    warnings: list[str] = []
    module, unsupported = interpreted(found)
    if unsupported:
        warnings.append(
            f"operators that cannot be differentiated ({', '.join(unsupported)}): only score-level attacks can be run, "
            "which find less than an attacker with the weights"
        )
    elif module is not None and (unsupported := output_controls(module)):
        module = None
        warnings.append(
            f"the scores are cut or rounded at the output ({', '.join(unsupported)}), which whoever has the file takes "
            "off again: gradient attacks on it would show nothing, so only score-level attacks can be run"
        )
    inputs = Preprocess(found.input)(probe_images(found.input))
    try:
        session = OrtSession(found.model.SerializeToString(), output=found.output, layout=found.layout)
        scores = torch.from_numpy(session.run(inputs.numpy()))
    except InvalidInput as error:
        problems.add(error.message)
        return None
    wrong = output_problems(scores)
    for problem in wrong:
        problems.add(problem)
    if wrong:
        return None
    output = output_kind(found, scores)
    parity, answers = None, folded_answers(scores, output)
    if module is not None:
        settle_output(module, output)
        with torch.no_grad():
            answers = folded_answers(module(inputs), Output.LOGITS)  # what a sigmoid at the end would squeeze
        warnings += module.program.notes
        operators = {step.op for step in module.program.steps}
        if "Conv" in operators and not any(name.endswith("Normalization") for name in operators):
            warnings.append(_FOLDED)
        parity = check_parity(
            module, lambda x: torch.from_numpy(session.run(x.numpy())), inputs, output=output, half=found.half
        )
        if not parity.passed:
            warnings.append(
                f"the interpreted graph differs from onnxruntime by {parity.max_abs_error:.2g} (allowed "
                f"{parity.tolerance:.2g}): only score-level attacks can be run, which find less than an attacker with "
                "the weights"
            )
    return _Trial(scores, output, answers, module, parity, unsupported, tuple(warnings))


def interpreted(found: OnnxFile) -> tuple[GraphModule | None, tuple[str, ...]]:
    """The graph as a module, or the operators that stand in the way."""
    unsupported = unsupported_operators(found.model)
    if unsupported:
        return None, unsupported
    try:
        return interpret(found.model, found.row_shape, output=found.output, layout=found.layout), ()
    except UnsupportedModel as error:
        return None, (error.message,)


def output_controls(module: GraphModule) -> tuple[str, ...]:
    """Operators behind the last layer that cut or round the scores and so take the gradient away, sorted."""
    steps = module.program.steps
    last = max((index for index, step in enumerate(steps) if step.layer), default=-1)
    return tuple(sorted({step.op for step in steps[last + 1 :]} & _OUTPUT_CONTROLS))


def output_kind(found: OnnxFile, scores: Tensor) -> Output:
    """What the graph gives: by its last operator, else by the numbers."""
    kind = reveal_logits(found.graph.nodes, found.output)[1]
    if kind is Output.LOGITS and looks_like_probabilities(scores):
        return Output.PROBABILITIES
    if kind is Output.LOGITS and looks_like_log_probabilities(scores):
        return Output.LOG_PROBABILITIES
    return kind


def settle_output(module: GraphModule, output: Output) -> None:
    """Make the module give log-probabilities where the graph's probabilities were recognised by the numbers alone."""
    if output is Output.PROBABILITIES and module.output is not Output.PROBABILITIES:
        module.read_as_probabilities()


def _check_classes(scores: Tensor, spec: ModelSpec, inferred: dict[str, str], problems: Problems) -> None:
    n_classes = int(scores.shape[1]) if scores.ndim == 2 else 0
    if spec.n_classes is None:
        inferred["n_classes"] = str(n_classes)
    elif n_classes != spec.n_classes:
        problems.add(f"the model has {n_classes} classes, but the manifest says {spec.n_classes}")


def _inspect_weights(path: Path, kind: ModelFormat, spec: ModelSpec, problems: Problems) -> TargetCard:
    inferred: dict[str, str] = {}
    if spec.architecture is None:
        problems.add(
            f"bare weights need `model.architecture` in the manifest, one of: {', '.join(architecture_names())}"
        )
    if spec.input is None:
        problems.add("bare weights need `model.input` in the manifest (channels, height, width, mean, std)")
    tensors = read_weights(path, kind, problems, inferred)
    module, scores = None, None
    if tensors is not None and spec.architecture in architecture_names() and spec.input is not None:
        module, scores = _assemble(tensors, spec, spec.input, problems, inferred)
    problems.raise_any()
    if module is None or scores is None or spec.input is None:
        raise InvalidInput("the weights could not be read")
    return TargetCard(
        name=spec.name,
        format=kind,
        digest=digest_of_file(path),
        weights_digest=weights_digest(module),
        answers=folded_answers(scores, Output.LOGITS),
        architecture=str(spec.architecture),
        n_classes=scores.shape[1],
        input=spec.input,
        output=Output.LOGITS,
        n_parameters=sum(p.numel() for p in module.parameters()),
        access=WHITE_BOX_ACCESS,
        inferred=inferred,
    )


def _assemble(
    tensors: dict[str, Tensor], spec: ModelSpec, shape: InputSpec, problems: Problems, inferred: dict[str, str]
) -> tuple[nn.Module | None, Tensor | None]:
    architecture = str(spec.architecture)
    try:
        n_classes = head_classes(architecture, tensors, shape.channels)
    except UnknownName as error:
        problems.add(error.message)
        return None, None
    if n_classes is not None and spec.n_classes is None:
        inferred["n_classes"] = str(n_classes)
    if n_classes is not None and spec.n_classes not in (None, n_classes):
        problems.add(f"the weights have {n_classes} classes, but the manifest says {spec.n_classes}")
    wanted = n_classes or spec.n_classes or 2
    module = build_with_weights(architecture, tensors, n_classes=wanted, channels=shape.channels, problems=problems)
    if module is None:
        return None, None
    try:
        with torch.no_grad():
            scores = module(Preprocess(shape)(probe_images(shape)))
    except (RuntimeError, AssertionError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        problems.add(f"'{architecture}' cannot take images of {shape.channels}x{shape.height}x{shape.width}: {first}")
        return None, None
    for problem in output_problems(scores):
        problems.add(problem)
    return module, scores
