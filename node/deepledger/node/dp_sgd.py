"""DP-SGD (Abadi et al. 2016) through Opacus: gradients of single samples, clipped and summed, with noise. Needs Opacus.

Opacus' hooks make the gradients; lots and noise are ours, see `secret_noise`, and so is the watch over what was really
done.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from opacus.data_loader import wrap_collate_with_empty
from opacus.layers import DPMultiheadAttention
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler

from deepledger.node.batch_mixing import BatchMixing
from deepledger.node.private_run import Watch, watch_over
from deepledger.node.sample_gradients import SampleGradients, check_complete, rows_of
from deepledger.node.secret_noise import SecretNoise
from deepledger.protocol.errors import BadInput

_ATTENTION = "take a torch.nn.Linear each for queries, keys, values and output, and scaled_dot_product_attention"
_INSTEAD: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.modules.batchnorm._BatchNorm, "it mixes the samples of a batch; take torch.nn.GroupNorm or LayerNorm"),
    (nn.LSTM, "take opacus.layers.DPLSTM, which has the same arguments"),
    (nn.GRU, "take opacus.layers.DPGRU, which has the same arguments"),
    (nn.RNN, "take opacus.layers.DPRNN, which has the same arguments"),
    (nn.RNNCellBase, "take a whole layer of opacus.layers, such as DPLSTM"),
    (nn.MultiheadAttention, _ATTENTION),
    (nn.Bilinear, "it has two inputs; multiply and take torch.nn.Linear"),
)
_OPTIONS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda layer: isinstance(layer, nn.modules.conv._ConvNd) and layer.padding_mode != "zeros",
        "Opacus takes any padding for zeros; take torch.nn.ReflectionPad2d or its like before it, and no padding",
    ),
    (
        lambda layer: isinstance(layer, nn.Embedding) and layer.scale_grad_by_freq,
        "the gradient of a sample then depends on the other samples; leave scale_grad_by_freq out",
    ),
    (
        lambda layer: isinstance(layer, DPMultiheadAttention) and layer.batch_first and layer.num_heads > 1,
        f"with batch_first it takes heads for positions (Opacus 1.6.0, its pull request 825); {_ATTENTION}",
    ),
)
"""What layers do wrong without a word, and what to take."""


def make_private(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Any],
    *,
    noise_multiplier: float,
    clip_norm: float,
    loss_reduction: Literal["mean", "sum"],
) -> tuple[PrivateOptimizer, PrivateLoader]:
    """See `deepledger.privacy.make_private`."""
    for name, value in {"noise_multiplier": noise_multiplier, "clip_norm": clip_norm}.items():
        if not (math.isfinite(value) and value > 0):
            raise BadInput(f"make_private: {name} is {value}; it must be a number above 0")
    _check_model(model)
    _check_optimizer(model, optimizer)
    _check_loader(loader)
    watch = watch_over(model)
    if watch.is_begun:
        raise BadInput("make_private was called twice for one model: call it once, before all steps")
    # Opacus' hook of a first layer works without gradients of the data, of which torch warns.
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
    hooks = SampleGradients(model, loss_reduction=loss_reduction)
    hooks.forbid_grad_accumulation()
    samples, noise = len(loader.dataset), SecretNoise()  # type: ignore[arg-type]
    lots = PoissonBatches(samples, batch_size=loader.batch_size or samples, noise=noise)
    mixing = BatchMixing(model)
    private = PrivateOptimizer(
        optimizer,
        model,
        mixing=mixing,
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip_norm,
        expected_batch_size=lots.rate * samples,
        loss_reduction=loss_reduction,
        noise=noise,
        watch=watch,
    )

    def clean() -> None:
        hooks.cleanup()
        mixing.forget()
        private.forget()

    watch.begin(samples=samples, rate=lots.rate, clean=clean)
    return private, PrivateLoader(loader, lots, watch.drew)


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with noise that nobody can guess, whose every step is watched."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        mixing: BatchMixing,
        noise: SecretNoise,
        watch: Watch,
        **options: Any,
    ) -> None:
        super().__init__(optimizer, **options)
        ours = {id(parameter) for parameter in self.params}
        self._named = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}
        self._mixing, self._noise, self._watch = mixing, noise, watch
        self._is_complete = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Raises `StepRefused`, see `Watch`, and `BadInput` where what is clipped are not the gradients of samples."""
        if closure is not None:
            with torch.enable_grad():
                closure()
        if any(parameter.grad_sample is None for parameter in self.params):
            raise ValueError(
                "a parameter has no gradient: call backward() before step(), and leave what the loss does not depend "
                "on out of the optimizer"
            )
        sizes = {len(rows_of(parameter)) for parameter in self.params}
        self._check_samples(sizes)
        self._watch.before_step(
            sizes=sizes,
            noise_multiplier=self.noise_multiplier,
            clip_norm=self.max_grad_norm,
        )
        self.clip_and_accumulate()
        self.add_noise()
        self.scale_grad()
        self.original_optimizer.step()
        self._watch.after_step()

    def _check_samples(self, sizes: set[int]) -> None:
        """Until a batch has shown that all is well."""
        if len(sizes) == 1 and (samples := next(iter(sizes))):
            self._mixing.check(samples)
            if not self._is_complete:
                check_complete(self._named, loss_reduction=self.loss_reduction)
                self._is_complete = True

    @property
    def accumulated_iterations(self) -> int:
        return 1  # no more are allowed

    def clip_and_accumulate(self) -> None:
        """The sum of the samples' gradients, each scaled to at most the clip norm."""
        rows = [rows_of(each) for each in self.params]
        norms = torch.stack([each.norms() for each in rows]).norm(dim=0)
        scale = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for parameter, each in zip(self.params, rows, strict=True):
            _check_processed_flag(parameter.grad_sample)
            parameter.summed_grad = each.weighted_sum(scale).view_as(parameter).to(parameter.dtype)
            if isinstance(parameter.grad_sample, torch.Tensor):
                _mark_as_processed(parameter.grad_sample)

    def signal_skip_step(self, do_skip: bool = True) -> None:  # noqa: ARG002 (Opacus calls it so)
        raise ValueError("physical batches (BatchMemoryManager) are not accounted for: take a smaller batch_size")

    def add_noise(self) -> None:
        params = self.params
        drawn = self._noise.normal(sum(parameter.numel() for parameter in params))
        drawn *= self.noise_multiplier * self.max_grad_norm
        for parameter, part in zip(params, torch.split(drawn, [each.numel() for each in params]), strict=True):
            summed = parameter.summed_grad
            parameter.grad = (summed + part.to(summed.device, summed.dtype).view_as(summed)).view_as(parameter)

    def forget(self) -> None:
        """Leave nothing on the parameters."""
        for parameter in self.params:
            parameter.grad = None
            for name in ("summed_grad", "grad_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


class PoissonBatches(Sampler[list[int]]):
    """Batches that each sample is in with the same probability, independently of all else."""

    def __init__(self, samples: int, *, batch_size: int, noise: SecretNoise) -> None:
        self.samples, self.rate, self._noise = samples, min(1.0, batch_size / samples), noise
        self._batches = math.ceil(samples / batch_size)
        self.sizes: deque[int] = deque()
        """Of batches that were drawn and not handed out yet: loaders look ahead."""

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        self.sizes.clear()
        for _ in range(self._batches):
            lot = (self._noise.uniform(self.samples) < self.rate).nonzero()[0].tolist()
            self.sizes.append(len(lot))
            yield lot


class PrivateLoader(DataLoader[Any]):
    """A loader like another one, whose batches are drawn by lot; they may be empty."""

    def __init__(self, loader: DataLoader[Any], lots: PoissonBatches, drew: Callable[[int], None]) -> None:
        collate = wrap_collate_with_empty(collate_fn=loader.collate_fn)
        collate([loader.dataset[0]])  # so that it knows what an empty batch looks like
        names = ("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")
        options = {name: getattr(loader, name) for name in names}
        super().__init__(
            loader.dataset,
            batch_sampler=lots,
            collate_fn=collate,
            persistent_workers=loader.persistent_workers,
            **options,
        )
        self._lots, self._drew = lots, drew

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            self._drew(self._lots.sizes.popleft())
            yield batch


def _check_model(model: nn.Module) -> None:
    """Raises `BadInput` for the first layer of which no gradients of single samples can be had, with what to take."""
    for name, module in model.named_modules():
        what = f"make_private: layer {name!r} is a {type(module).__name__}" if name else "make_private: the model"
        for kind, instead in _INSTEAD:
            if isinstance(module, kind):
                raise BadInput(f"{what}: {instead}, in build_model")
        for has_option, instead in _OPTIONS:
            if has_option(module):
                raise BadInput(f"{what}: {instead}, in build_model")
        if getattr(module, "track_running_stats", False):
            raise BadInput(f"{what}: its running statistics would not be private; give it track_running_stats=False")
        if parametrize.is_parametrized(module) or any(
            isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()
        ):
            raise BadInput(f"{what} with a parametrization: leave that out")
        own = [key for key, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
        buffers = [key for key, _ in module.named_buffers()]
        if own and buffers:
            raise BadInput(
                f"{what} with parameters ({own[0]}) and buffers ({buffers[0]}), which is not supported: move the "
                "buffers into a module without parameters of its own"
            )
        if own and any(getattr(module, key).is_complex() for key in own):
            raise BadInput(f"{what} with complex parameters, which are not supported: take two real ones")


def _check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, DPOptimizer):
        raise BadInput("make_private: the optimizer is private already; give it the plain one")
    known = {id(parameter) for parameter in model.parameters()}
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in known for parameter in given):
        raise BadInput("make_private: the optimizer has parameters that are not the model's")
    if not any(parameter.requires_grad for parameter in given):
        raise BadInput("make_private: none of the optimizer's parameters has requires_grad")


def _check_loader(loader: DataLoader[Any]) -> None:
    if not isinstance(loader, DataLoader):
        raise BadInput(
            f"make_private wants a torch DataLoader, not a {type(loader).__name__}: DataLoader(data, batch_size=64)"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise BadInput(
            "make_private: samples of an IterableDataset cannot be drawn by lot; take a Dataset with a length"
        )
    if loader.batch_size is None or not isinstance(loader.sampler, SequentialSampler | RandomSampler):
        raise BadInput(
            "make_private draws batches by lot, so that the loader's own sampler would not be used: leave sampler and "
            "batch_sampler out, and say how many samples a batch has on average with batch_size"
        )
