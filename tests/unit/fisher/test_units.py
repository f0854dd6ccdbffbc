import pytest
import torch
import torchvision
from torch import nn

from auditor.fisher.units import execution_units
from auditor.targets.architectures import build_architecture


def units_of(module, size=32):
    return execution_units(module, torch.rand(1, 3, size, size))


@pytest.mark.parametrize(
    "name",
    [
        "small-cnn", "small-resnet", "resnet18", "mobilenet_v3_small", "densenet121", "squeezenet1_1",
        "shufflenet_v2_x0_5",
    ],
)  # fmt: skip
def test_every_parameter_and_buffer_belongs_to_exactly_one_unit(name):
    module = build_architecture(name, n_classes=5, channels=3)
    units = units_of(module)
    assert sorted(p for unit in units for p in unit.parameters) == sorted(n for n, _ in module.named_parameters())
    assert sorted(b for unit in units for b in unit.buffers) == sorted(n for n, _ in module.named_buffers())
    assert len({unit.name for unit in units}) == len(units)
    assert sum(unit.n_parameters for unit in units) == sum(p.numel() for p in module.parameters())


def test_convolution_and_norm_are_one_unit_and_the_head_is_the_last():
    units = units_of(build_architecture("small-cnn", n_classes=5, channels=3))
    assert units[0].parameters == ("features.0.weight", "features.1.weight", "features.1.bias")
    assert units[0].buffers == ("features.1.running_mean", "features.1.running_var", "features.1.num_batches_tracked")
    assert units[-1].parameters == ("head.weight", "head.bias")
    assert len(units) == 7


def test_residual_blocks_are_single_units():
    names = [unit.name for unit in units_of(build_architecture("resnet18", n_classes=5, channels=3))]
    assert names == ["conv1", *[f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)], "fc"]
    assert [u.name for u in units_of(build_architecture("small-resnet", n_classes=5, channels=3))][1:4] == [
        "blocks.0",
        "blocks.1",
        "blocks.2",
    ]


def test_transformer_halves_are_units_and_the_position_embedding_goes_with_the_stem():
    module = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=5)
    units = units_of(module)
    assert [len(unit.parameters) for unit in units] == [4, 6, 6, 6, 8, 2]
    assert set(units[0].parameters) == {"conv_proj.weight", "conv_proj.bias", "class_token", "encoder.pos_embedding"}


def on_paper(name, **options):
    """Units of a torchvision network without any memory for its weights."""
    with torch.device("meta"):
        module = getattr(torchvision.models, name)(num_classes=5, **options)
        return module, execution_units(module, torch.rand(1, 3, 32, 32))


def test_vit_b_16_is_cut_between_its_attention_and_mlp_blocks_only():
    module, units = on_paper("vit_b_16", image_size=32)
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    halves = [f"{block}.{half}" for block in blocks for half in ("self_attention", "mlp")]
    assert [unit.name for unit in units] == ["conv_proj", *halves, "heads.head"]
    norm_of = (("self_attention", "ln_1"), ("mlp", "ln_2"))
    norms = {f"{block}.{half}": f"{block}.{norm}." for block in blocks for half, norm in norm_of}
    for unit in units[1:-1]:
        outside = [p for p in unit.parameters if not p.startswith((f"{unit.name}.", norms[unit.name], "encoder.ln."))]
        assert not outside
        inside = [n for n, _ in module.named_parameters() if n.startswith((f"{unit.name}.", norms[unit.name]))]
        assert set(inside) <= set(unit.parameters)
    assert sum(unit.n_parameters for unit in units) == sum(p.numel() for p in module.parameters())


def test_swin_t_keeps_attention_with_its_position_bias_and_norm_whole():
    module, units = on_paper("swin_t")
    owner = {parameter: unit.name for unit in units for parameter in unit.parameters}
    assert set(owner) == {name for name, _ in module.named_parameters()}
    for path, submodule in module.named_modules():
        if path.endswith((".attn", ".mlp")):
            norm = path.removesuffix("attn") + "norm1" if path.endswith("attn") else path.removesuffix("mlp") + "norm2"
            mine = [*(f"{path}.{n}" for n, _ in submodule.named_parameters()), f"{norm}.weight", f"{norm}.bias"]
            assert {owner[name] for name in mine} == {path}
    assert units[-1].name == "head"


class HeadFirst(nn.Module):
    """Registers its layers in the wrong order, reuses one, and never calls another."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        self.late = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.early = nn.Linear(12, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        y = self.late(torch.relu(self.early(x.flatten(1))) * self.scale)
        return self.head(self.drop(self.late(y)))


def test_order_is_execution_order_and_shared_and_unused_parameters_have_one_home():
    units = execution_units(HeadFirst(), torch.rand(1, 3, 2, 2))
    assert [unit.name for unit in units[:2]] == ["early", "late"]
    assert units[0].parameters == ("early.weight", "early.bias", "scale")
    assert "unused.weight" in units[-1].parameters
    assert "head.weight" in units[-1].parameters
    assert "drop" in units[-1].modules


class InputNorm(nn.Module):
    """A norm before the first convolution, and a gate around the second."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.inner = nn.Conv2d(4, 4, 1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = self.conv(self.norm(x))
        return self.head((self.inner(y) * torch.sigmoid(self.gate(y))).mean((2, 3)))


def test_a_leading_norm_joins_the_first_unit_and_parallel_branches_are_one():
    units = execution_units(InputNorm(), torch.rand(1, 3, 8, 8))
    assert [set(unit.parameters) for unit in units] == [
        {"norm.weight", "norm.bias", "conv.weight", "conv.bias"},
        {"inner.weight", "inner.bias", "gate.weight", "gate.bias"},
        {"head.weight", "head.bias"},
    ]


def test_the_module_is_left_as_it_was():
    module = build_architecture("small-cnn", n_classes=5, channels=3).train()
    module.features[1].eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    units_of(module)
    assert module.training
    assert not module.features[1].training
    assert not any(p.requires_grad for p in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(submodule._forward_pre_hooks for submodule in module.modules())


def test_a_network_without_weights_is_refused():
    with pytest.raises(ValueError, match="no weight"):
        execution_units(nn.Flatten(), torch.rand(1, 3, 2, 2))
