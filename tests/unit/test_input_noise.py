"""Input perturbation: samples with noise, and any training on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as f
from torch.utils.data import DataLoader, TensorDataset

from deepledger.node.private_run import StepRefused, Watch, watch_over
from deepledger.privacy import finish_private, make_private, perturb_inputs
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.private_run import PrivateRun, Steps


def untouchable() -> nn.Module:
    """What DP-SGD refuses."""
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def test_a_model_that_is_not_to_be_touched_is_trained_on_noised_samples() -> None:
    model, inputs, labels = untouchable(), torch.randn(40, 8), torch.arange(40) % 3
    loader: Any = DataLoader(TensorDataset(inputs, labels), batch_size=4)
    with pytest.raises(BadInput, match="BatchNorm1d"):
        make_private(model, torch.optim.SGD(model.parameters()), loader, noise_multiplier=1.0, clip_norm=1.0)
    noised, targets = perturb_inputs(model, inputs, f.one_hot(labels, 3).float(), noise_multiplier=1.5, clip_norm=2.0)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        f.mse_loss(model(noised), targets).backward()
        optimizer.step()
    assert finish_private(model) == PrivateRun(samples=40, clip_norm=0.0, steps=(Steps(1.0, 1.5, 1),), past=None)


def test_samples_are_shortened_whole_and_get_noise_of_the_clip_norm() -> None:
    inputs, targets = 100 * torch.randn(2000, 3, 2), torch.ones(2000, 1)
    before = inputs.clone(), targets.clone()
    faint = perturb_inputs(nn.Linear(1, 1), inputs, targets, noise_multiplier=1e-9, clip_norm=2.0)
    whole = torch.cat([each.flatten(1) for each in faint], dim=1)
    assert torch.allclose(whole.norm(dim=1), torch.tensor(2.0), atol=1e-5)
    direction = torch.cat([inputs.flatten(1), targets], dim=1)
    assert torch.allclose(f.cosine_similarity(whole, direction), torch.tensor(1.0), atol=1e-5)
    assert [each.shape for each in faint] == [inputs.shape, targets.shape]
    assert all(torch.equal(one, other) for one, other in zip(before, (inputs, targets), strict=True))
    short = torch.full((3000, 4), 0.01)
    (noised,) = perturb_inputs(nn.Linear(1, 1), short, noise_multiplier=3.0, clip_norm=2.0)
    assert noised.std().item() == pytest.approx(6.0, rel=0.05)
    assert not torch.equal(noised, perturb_inputs(nn.Linear(1, 1), short, noise_multiplier=3.0, clip_norm=2.0)[0])


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "labels": (
        (torch.ones(2, 2), torch.arange(2)),
        "1 is of torch.int64, on which noise cannot fall: of labels take",
    ),
    "rows": ((torch.ones(2, 2), torch.ones(3)), "tensors have 2 and 3 rows"),
    "nothing": ((), "takes tensors with a row for each sample"),
    "no samples": ((torch.ones(0, 2),), "have 0 rows"),
    "a number": ((torch.tensor(1.0),), "takes tensors with a row for each sample"),
    "NaN": ((torch.tensor([[float("nan")]]),), "NaN or infinity"),
}


@pytest.mark.parametrize(("tensors", "said"), REFUSED.values(), ids=REFUSED)
def test_what_noise_cannot_fall_on_is_refused(tensors: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        perturb_inputs(nn.Linear(1, 1), *tensors, noise_multiplier=1.0, clip_norm=1.0)
    with pytest.raises(BadInput, match="noise_multiplier is 0"):
        perturb_inputs(nn.Linear(1, 1), torch.ones(2, 2), noise_multiplier=0, clip_norm=1.0)


def test_every_call_counts_and_a_budget_refuses_it() -> None:
    model, inputs = nn.Linear(2, 1), torch.ones(5, 2)
    watch = watch_over(model, Watch(model, may_take=lambda _others, _rate, _noise, count: count < 3))
    for _ in range(2):
        perturb_inputs(model, inputs, noise_multiplier=1.0, clip_norm=1.0)
    with pytest.raises(StepRefused):
        perturb_inputs(model, inputs, noise_multiplier=1.0, clip_norm=1.0)
    assert watch.refused
    run = finish_private(model)
    assert run is not None
    assert run.steps == (Steps(1.0, 1.0, 2),)


def test_a_model_that_was_trained_before_is_noticed() -> None:
    model = nn.Linear(2, 1)
    watch_over(model, Watch(model, is_untouched=lambda: False))
    perturb_inputs(model, torch.ones(5, 2), noise_multiplier=1.0, clip_norm=1.0)
    run = finish_private(model)
    assert run is not None
    assert run.past == "the model was changed before perturb_inputs"
