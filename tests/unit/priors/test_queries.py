"""A prior that is made by asking the target says beforehand how much it will ask."""

import pytest
import torch

from auditor.priors.catalog import PRIORS
from auditor.priors.network import AskingBuilder
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyTarget, toy_templates

K = 4
SMALL = {"steps": 2, "batch_size": 4, "width": 4, "latent_dim": 4}
ASKING = [builder.name for builder in PRIORS if builder.access is not None]


def test_those_that_ask_are_there():
    assert set(ASKING) >= {"kedmi-gan", "plg-gan", "tac-gan"}


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("n_public", [30, 60])
def test_queries_are_what_the_training_asks(name, n_public):
    """With 30 public images all of them both train and measure; with 60, three are held out."""
    builder = PRIORS.build(name, SMALL)
    assert isinstance(builder, AskingBuilder)
    view = narrow(ToyTarget(toy_templates(K)), builder.access)
    images = torch.rand(n_public, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    builder.train(ImageBatch(images), RunContext(), view)
    assert view.counter.forward == builder.queries(n_public, K)
