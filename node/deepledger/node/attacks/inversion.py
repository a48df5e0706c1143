"""What did the records look like? Inputs are sought whose gradient is that of an update.

`match_distance` is Deep Leakage from Gradients (DLG, Zhu et al. 2019), which needs the gradient itself.
`match_direction` is Geiping et al. (2020): the cosine between gradients, and a prior of smoothness for images. The
direction is all that it needs, and an update has about that of the gradient halfway. `read_first_layer` is Phong et al.
(2018): what a linear layer with a bias was given stands in its gradient, exactly where one record alone moved a row.

Labels are taken to be known, since the last layer's gradient betrays them (Zhao et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deepledger.node.attacks.scene import (
    FEWEST,
    Scene,
    Sight,
    columns_of,
    halves,
    is_classes,
    losses,
    model_with,
    usual_loss,
)
from deepledger.protocol.evaluation.samples import count, take
from deepledger.protocol.formats.model import LayoutEntry
from deepledger.protocol.formats.vectors import Floats

MOST_SOUGHT = 8
"""Records that are sought at a time."""
NEARER = 3.0
"""dB that a guess must be nearer to a record than to all that were not trained on, at least, to be told as found."""
_STEPS, _RATE, _SMOOTH = 400, 0.1, 1e-3
_ON_THE_WAY = (0.0, 0.25, 0.5)
"""Parts of an update after which the model's gradient is held against it."""


@dataclass(frozen=True, slots=True)
class Clue:
    """What an attacker holds a gradient against: one for every trained entry, of the round's model with `change`."""

    gradient: list[torch.Tensor]
    change: Floats | None = None
    travelled: list[torch.Tensor] | None = None  # where the gradient is known; None: everywhere


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """`guess` is the one that comes nearest to one of the records, `truth`."""

    guess: torch.Tensor
    truth: torch.Tensor
    nearest: float  # dB
    nearest_other: float  # dB, of the guess that comes nearest to a record that was not trained on
    margin: float  # dB that `nearest` has to be above that, to be more than chance

    @property
    def found(self) -> bool:
        return self.nearest >= self.nearest_other + self.margin


def unsuited(scene: Scene) -> str | None:
    """Why this attack says nothing of the task; None: it may."""
    few = take(scene.own, range(min(count(scene.own), 8)))
    columns = columns_of(few)
    if columns is None:
        return "the data are no pairs of an input and a target"
    if not columns[0].is_floating_point():
        return f"inputs are {str(columns[0].dtype).removeprefix('torch.')}, which no gradient reaches"
    model = model_with(scene)
    named = dict(model.named_parameters())
    if any(entry.name not in named or entry.is_complex for entry in _entries(scene)):
        return "what is trained are no parameters of the model, or complex ones"
    with torch.no_grad():
        loss = usual_loss(model, *columns)
    if loss is None or not np.allclose(losses(scene, None, few), loss.numpy(), rtol=1e-3, atol=1e-4):
        return "the task's loss is neither a cross-entropy nor a squared error"
    try:
        clue = Clue([torch.ones_like(each) for each in _trained(model, scene)])
        match_direction(scene, clue, columns[1], columns[0], seed=0, steps=1)
    except RuntimeError as error:
        return f"the model cannot be differentiated twice: {error}"
    return None


def sides(scene: Scene) -> tuple[list[int], torch.Tensor]:
    """Rows of the victim that are trained on, and inputs that are not: the other half of its own or, of few records,
    others' of the same labels. Of other labels, or of other data, they would be farther from any guess.
    """
    if count(scene.own) >= FEWEST:
        trained, left_out = (rows.tolist() for rows in halves(scene))
        return trained, _columns(scene.own, left_out)[0]
    everything = [*range(count(scene.own))]
    return everything, alike(scene, everything)


def alike(scene: Scene, rows: Sequence[int]) -> torch.Tensor:
    """Others' inputs with the labels of these rows; of targets that are no classes, all."""
    inputs, targets = _columns(scene.similar, range(count(scene.similar)))
    return inputs[torch.isin(targets, _columns(scene.own, rows)[1])] if is_classes(targets) else inputs


def nothing_beside(scene: Scene) -> str | None:
    """Why no guess can be held against records that were not trained on; None: it can."""
    if (beside := len(sides(scene)[1])) >= FEWEST // 2:
        return None
    return f"{beside} records that were not trained on have labels of yours: give {FEWEST // 2} or more with --beside"


def has_images(inputs: torch.Tensor) -> bool:
    """One sample a row: height and width, with or without channels."""
    return inputs.dim() in (3, 4) and min(inputs.shape[-2:]) > 2


def one_step(scene: Scene, rows: Sequence[int]) -> list[Clue]:
    """The gradient of these records of the victim's: what one step on them would send."""
    model = model_with(scene)
    return [Clue([each.detach() for each in _gradient(model, scene, *_columns(scene.own, rows))])]


def clues_in(scene: Scene, sight: Sight) -> list[Clue]:
    """An update taken for one step, from where it began or from further on its way."""
    gradient = [
        -torch.from_numpy(sight.change[entry.offset : entry.offset + entry.size]).reshape(entry.shape)
        for entry in _entries(scene)
    ]
    travelled = [part != 0 for part in gradient] if scene.trainer.spec.sparse else None
    return [Clue(gradient, sight.change * part if part else None, travelled) for part in _ON_THE_WAY]


def reconstruct(scene: Scene, clues: Sequence[Clue], rows: Sequence[int], *, others: torch.Tensor) -> Reconstruction:
    """Seek records behind clues that these rows of the victim's left, and say how near the best guess comes to them and
    to `others`, inputs that left none.
    """
    inputs, targets = _columns(scene.own, rows)
    drawn = scene.random("sought").permutation(len(rows))[:MOST_SOUGHT].tolist()
    tried = [match_direction(scene, clue, targets[drawn], inputs, seed=scene.seed) for clue in clues]
    guesses, _ = min(tried, key=lambda each: each[1])
    candidates = torch.cat([guesses, read_first_layer(scene, clues[0], inputs)])
    return compare(candidates, inputs, others)


def match_direction(
    scene: Scene, clue: Clue, targets: torch.Tensor, like: torch.Tensor, *, seed: int, steps: int = _STEPS
) -> tuple[torch.Tensor, float]:
    """Inputs of the shape and the span of `like`, one a target, and how far off the direction they are: 0 to 2.

    Adam on signs, as Geiping et al. do.
    """
    model, images, span = model_with(scene, clue.change), has_images(like), _span(like)
    guess = _noise((len(targets), *like.shape[1:]), *span, seed).requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=_RATE * (span[1] - span[0]))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 3 // 8, steps * 5 // 8, steps * 7 // 8])
    length, away = _norm(clue.gradient), torch.tensor(2.0)
    for _ in range(steps):
        optimizer.zero_grad()
        own = _known(clue, _gradient(model, scene, guess, targets))
        along = torch.stack([(a * b).sum() for a, b in zip(own, clue.gradient, strict=True)]).sum()
        away = 1 - along / (length * _norm(own) + 1e-12)
        torch.autograd.backward(away + (_SMOOTH * _roughness(guess) / (span[1] - span[0]) if images else 0))
        _sign(guess)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            guess.clamp_(*span)
    return guess.detach(), float(away.detach())


def match_distance(
    scene: Scene, clue: Clue, targets: torch.Tensor, like: torch.Tensor, *, seed: int, steps: int = 200
) -> torch.Tensor:
    """As `match_direction`, by L-BFGS on the squared distance; the gradient has its true length."""
    model, span = model_with(scene, clue.change), _span(like)
    guess = _noise((len(targets), *like.shape[1:]), *span, seed).requires_grad_()
    optimizer = torch.optim.LBFGS([guess], lr=1.0, max_iter=steps, line_search_fn="strong_wolfe")

    def distance() -> torch.Tensor:
        optimizer.zero_grad()
        own = _known(clue, _gradient(model, scene, guess, targets))
        apart = torch.stack([(a - b).square().sum() for a, b in zip(own, clue.gradient, strict=True)]).sum()
        torch.autograd.backward(apart)
        return apart

    optimizer.step(distance)  # type: ignore[no-untyped-call]
    return guess.detach().nan_to_num().clamp(*span)


def read_first_layer(scene: Scene, clue: Clue, like: torch.Tensor) -> torch.Tensor:
    """Candidates of the shape of `like`; none where the first layer with parameters is no linear one on inputs."""
    model = model_with(scene)
    first = next((each for each in model.modules() if any(True for _ in each.parameters(recurse=False))), None)
    if not (isinstance(first, nn.Linear) and first.in_features == math.prod(like.shape[1:])):
        return like[:0]
    moved = {id(each): part for each, part in zip(_trained(model, scene), clue.gradient, strict=True)}
    weight, bias = moved.get(id(first.weight)), moved.get(id(first.bias))
    if weight is None or bias is None:
        return like[:0]
    strong = bias.abs() > 1e-3 * bias.abs().max()
    return (weight[strong] / bias[strong, None]).reshape(-1, *like.shape[1:]).clamp(*_span(like))


def compare(guesses: torch.Tensor, records: torch.Tensor, others: torch.Tensor) -> Reconstruction:
    """`others` were not trained on: they say how near chance comes.

    The nearest of many come about as near as Gumbel's law says, by which one of two is nearer by t scales once in
    1 + exp(t) times. The scale is that of the nearest others (Hill 1975); of so few it is known badly, hence the power.
    Once in a hundred times a record comes so near by chance.
    """
    span = _span(records)[1] - _span(records)[0]
    mine, theirs = (_decibel(guesses, each, span) for each in (records, others))
    guess, record = divmod(int(mine.argmax()), len(records))
    best = theirs.amax(dim=0).sort(descending=True).values
    few = max(len(best) // 5, 2)
    scale = float((best[: few - 1] - best[few - 1]).mean())
    once = (few - 1) * (99 ** (1 / (few - 1)) - 1)
    margin = scale * (once + max(math.log(len(records) / len(others)), 0))
    return Reconstruction(
        guesses[guess], records[record], float(mine.max()), float(best[0]), margin=max(margin, NEARER)
    )


def _decibel(guesses: torch.Tensor, records: torch.Tensor, span: float) -> torch.Tensor:
    """Peak signal to noise, shape (guesses, records); at most 100."""
    apart = torch.cdist(guesses.flatten(1).double(), records.flatten(1).double())
    return (20 * torch.log10(span * math.sqrt(records[0].numel()) / apart)).clamp(max=100)


def _columns(data: Any, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    columns = columns_of(take(data, list(rows)))
    assert columns is not None  # noqa: S101 (`unsuited` has looked)
    return columns


def _entries(scene: Scene) -> list[LayoutEntry]:
    return [entry for entry in scene.trainer.spec.model.layout if entry.kind == "trainable"]


def _trained(model: nn.Module, scene: Scene) -> list[nn.Parameter]:
    named = dict(model.named_parameters())
    return [named[entry.name] for entry in _entries(scene)]


def _gradient(model: nn.Module, scene: Scene, inputs: torch.Tensor, targets: torch.Tensor) -> Sequence[torch.Tensor]:
    """Of the mean loss, for every trained entry; it may be differentiated again."""
    with sdpa_kernel(SDPBackend.MATH):  # attention of other kinds cannot be differentiated twice
        loss = usual_loss(model, inputs, targets)
    parameters = _trained(model, scene)
    assert loss is not None  # noqa: S101 (`unsuited` has looked)
    return torch.autograd.grad(loss.mean(), parameters, create_graph=True, allow_unused=True, materialize_grads=True)


def _known(clue: Clue, gradient: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    if clue.travelled is None:
        return gradient
    return [part * there for part, there in zip(gradient, clue.travelled, strict=True)]


def _sign(guess: torch.Tensor) -> None:
    if guess.grad is not None:
        guess.grad.sign_()


def _span(inputs: torch.Tensor) -> tuple[float, float]:
    """The least and the greatest value, which differ."""
    low, high = float(inputs.min()), float(inputs.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _noise(shape: tuple[int, ...], low: float, high: float, seed: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _roughness(images: torch.Tensor) -> torch.Tensor:
    """Total variation: the mean step between neighbours."""
    return (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) / 2


def _norm(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.sqrt(torch.stack([part.square().sum() for part in parts]).sum())
