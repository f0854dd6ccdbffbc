"""How far apart a model's answers are in other files, and those of other models: by what a repaired model is known.

    python -m benchmarks.answers [--classes 2 5 40] [--seeds 2]

For each number of classes and seed a small-cnn is trained on procedural identities, defended in several ways, and
written in several forms. Prints, per form, the smallest and the largest distance (`auditor.service.outcomes.apart`)
between what was written and what it was made of.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import Tensor, nn

from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.data.image_set import ImageSet
from auditor.demo.identities import private_and_public
from auditor.fisher.units import execution_units
from auditor.loading.inspection import inspect_model
from auditor.loading.onnx_export import export_onnx
from auditor.service.outcomes import ALIKE, apart
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from auditor.testing.onnx_models import exported
from auditor.training import TrainConfig, fit_classifier
from benchmarks.result_tables import table
from remediation.defenses.base import RepairData
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.output_controls import ControlledScores, OutputControlsConfig
from remediation.preparation import validation_split

SIZE, IMAGES_SEEN = 32, 4000
SHAPE = (3, SIZE, SIZE)
CONTROLS = ({"decimals": 1}, {"decimals": 2}, {"decimals": 3}, {"top_k": 1}, {"top_k": 3}, {"label_only": True})
Answers = tuple[float, ...]


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    """What a static quantisation looks at."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter([{"input": images[i : i + 4].numpy()} for i in range(0, len(images), 4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch."""
        return next(self._batches, None)


class Bench:
    """The distances found so far, by form.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self.found: dict[str, list[float]] = defaultdict(list)
        self._folder = folder

    def note(self, form: str, one: Answers, other: Answers) -> None:
        """Two models, or two files of one."""
        self.found[form].append(apart(one, other))

    def answers(self, data: bytes, size: int = SIZE) -> Answers:
        """Of a file, as the intake check reads it."""
        path = self._folder / "m.onnx"
        path.write_bytes(data)
        spec = InputSpec(channels=3, height=size, width=size)
        return inspect_model(path, ModelSpec(name="m", input=spec)).answers

    def written(self, module: nn.Module, n_classes: int) -> bytes:
        """The file of a network."""
        path = self._folder / "written.onnx"
        export_onnx(module.eval(), InputSpec(channels=3, height=SIZE, width=SIZE), path, n_classes=n_classes)
        return path.read_bytes()

    def quantised(self, data: bytes, images: Tensor | None) -> bytes:
        """With 8-bit weights; with images to look at, and activations."""
        source, target = self._folder / "source.onnx", self._folder / "quantised.onnx"
        source.write_bytes(data)
        if images is None:
            quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        else:
            kinds = ["Conv", "Gemm", "MatMul"]
            quantize_static(source, target, Pictures(images), quant_format=QuantFormat.QDQ, op_types_to_quantize=kinds)
        return target.read_bytes()


def halved(data: bytes) -> bytes:
    """The file with every weight rounded to 16 bits."""
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            rounded = values.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))
    return bytes(model.SerializeToString())


def changed(module: nn.Module, change: Callable[[nn.Module], None]) -> nn.Module:
    """A changed copy."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        change(other)
    return other


def prune(module: nn.Module) -> None:
    """The smallest fifth of every layer's weights."""
    for weights in module.parameters():
        if weights.ndim > 1:
            size = weights.abs()
            weights[size <= size.flatten().quantile(0.2)] = 0


def rescale(module: nn.Module) -> None:
    """Scores a third as large."""
    for tensor in module.get_submodule("head").parameters():
        tensor.div_(3)


def turn(module: nn.Module) -> None:
    """The classes in another order."""
    for tensor in module.get_submodule("head").parameters():
        tensor.copy_(tensor.flip(0))


def trained(private: ImageSet, n_classes: int, seed: int) -> nn.Module:
    """A network that has learnt the people."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build_architecture("small-cnn", n_classes=n_classes, channels=3)
    epochs = max(12, IMAGES_SEEN // len(private))
    config = TrainConfig(epochs=epochs, batch_size=min(64, 10 * n_classes), lr=4e-3)
    fit_classifier(module, private.batch(SHAPE), None, config, RunContext(seed=seed), stage="target")
    return module.eval()


def repaired(module: nn.Module, data: RepairData, defense: str) -> nn.Module:
    """What a defense makes of it, at its defaults."""
    network = copy.deepcopy(module)
    units = execution_units(network, torch.zeros(1, *SHAPE))
    done = DEFENSES.build(defense, {}).fit(network, units, "head", 0, data, RunContext(), prepare=lambda x: x)
    return done.module.cpu().eval()


def measure(bench: Bench, n_classes: int, seed: int) -> Answers:
    """All forms of one network; its answers."""
    private, heldout, public = private_and_public(n_classes, 4, 20, 5, SIZE, 0)
    module = trained(private, n_classes, seed)
    images = private.batch(SHAPE).images[:64].cpu()
    data = bench.written(module, n_classes)
    plain = bench.answers(data)
    ends = (nn.Identity(), nn.Softmax(1), nn.Sigmoid())
    for other in (exported(nn.Sequential(module, end), SHAPE, opset=17, dynamo=False) for end in ends):
        bench.note("another exporter, softmax or sigmoid at the end", plain, bench.answers(other))
    fit, validation = validation_split(private, 0.15, 0)
    batches = fit.batch(SHAPE), validation.batch(SHAPE), heldout.batch(SHAPE), public.batch(SHAPE)
    sets = RepairData(*batches, flip=True)
    tuned = {name: repaired(module, sets, name) for name in ("confidence-adaptation", "neg-ls")}
    for other_module in (module, *tuned.values()):
        file = bench.written(other_module, n_classes)
        before = bench.answers(file)
        bench.note("16-bit weights", before, bench.answers(halved(file)))
        bench.note("8-bit weights (dynamic)", before, bench.answers(bench.quantised(file, None)))
        bench.note("8-bit weights and activations (static)", before, bench.answers(bench.quantised(file, images)))
    for name, other_module in tuned.items():
        bench.note(f"the submission and its {name}", plain, bench.answers(bench.written(other_module, n_classes)))
    for control in (c for c in CONTROLS if int(c.get("top_k", 0)) < n_classes):
        file = bench.written(ControlledScores(module, OutputControlsConfig.model_validate(control)), n_classes)
        before = bench.answers(file)
        bench.note("the submission and its output-controls", plain, before)
        bench.note("16-bit weights, scores rounded or cut", before, bench.answers(halved(file)))
        for pictures in (None, images):
            form = "8-bit weights, scores rounded or cut" + ("" if pictures is None else " (static)")
            bench.note(form, before, bench.answers(bench.quantised(file, pictures)))
    for form, change in (("a fifth of the weights pruned", prune), ("scores divided by 3", rescale)):
        bench.note(form, plain, bench.answers(bench.written(changed(module, change), n_classes)))
    bench.note("another order of the classes", plain, bench.answers(bench.written(changed(module, turn), n_classes)))
    larger = exported(module, (3, 48, 48), opset=17, dynamo=False)
    bench.note("another size of the input", plain, bench.answers(larger, 48))
    return plain


def rows(bench: Bench) -> Iterator[tuple[str, ...]]:
    """A row per form."""
    for form, distances in bench.found.items():
        alike = sum(distance <= ALIKE for distance in distances)
        yield form, f"{min(distances):.3f}", f"{max(distances):.3f}", f"{alike} of {len(distances)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 5, 40])
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for n_classes in args.classes:
            models = [measure(bench, n_classes, seed) for seed in range(args.seeds)]
            for i, one in enumerate(models):
                for other in models[:i]:
                    bench.note("another seed", one, other)
    print(table(("form", "nearest", "furthest", f"within {ALIKE}"), rows(bench)))  # noqa: T201


if __name__ == "__main__":
    main()
