"""What a unit computes on."""

import pytest
import torch

from auditor.errors import RunnerFailure
from auditor.service.session import Session
from auditor.service.workspace import Workspace


def test_who_asks_for_cuda_where_there_is_none_is_told_and_gets_no_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def context(device):
        return Session(Workspace(tmp_path, tmp_path), device, lambda _message: None).context()

    assert context("auto").device.type == "cpu"
    with pytest.raises(RunnerFailure, match="--gpus asks for CUDA") as caught:
        context("cuda")
    assert "AUDITOR_DEVICE" in caught.value.remedy
