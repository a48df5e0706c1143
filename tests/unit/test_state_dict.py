"""Every kind of model: what travels of it and comes back as it was, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.evaluation import state_dict
from deepledger.protocol.evaluation.fates import entries_of
from deepledger.protocol.evaluation.state_dict import (
    format_of,
    frozen_bytes,
    holds_floats,
    keep_model,
    layout_of,
    read_floats,
    write_floats,
    write_frozen,
)
from deepledger.protocol.formats.vectors import encode_model, load


def with_buffer(name: str, value: object, model: nn.Module | None = None) -> nn.Module:
    model = model or nn.Linear(3, 2)
    model.register_buffer(name, value)
    return model


def fates(model: nn.Module, **said: str) -> dict[str, str]:
    return {entry.name: entry.fate for entry in entries_of(model, said)}


def test_what_is_trained_comes_first_then_means_then_variances() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    layout = layout_of(model)
    assert [(entry.name, entry.shape, entry.offset, entry.kind) for entry in layout] == [
        ("0.weight", (2, 3), 0, "trainable"),
        ("0.bias", (2,), 6, "trainable"),
        ("1.weight", (2,), 8, "trainable"),
        ("1.bias", (2,), 10, "trainable"),
        ("2.weight", (1, 2), 12, "trainable"),
        ("2.bias", (1,), 14, "trainable"),
        ("1.running_mean", (2,), 15, "statistic"),
        ("1.running_var", (2,), 17, "variance"),
    ]
    assert format_of(model).local == ("1.num_batches_tracked",)
    values = np.arange(19, dtype=np.float32)
    write_floats(model, values)
    assert (read_floats(model) == values).all()
    assert model[0].weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert model[1].running_var.tolist() == [17, 18]
    assert model[1].num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.InstanceNorm1d(2, track_running_stats=True)]
)
def test_the_statistics_of_every_norm_layer_are_known(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(1, 1), norm)
    assert fates(model)["1.running_mean"] == "statistic"
    assert fates(model)["1.running_var"] == "variance"


@pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_the_power_iteration_of_spectral_normalisation_is_a_statistic(wrap: object) -> None:
    model = nn.Sequential(wrap(nn.Linear(3, 2)))
    assert sorted(fates(model).values()) == ["statistic", "statistic", "trainable", "trainable"]


def test_frozen_parameters_and_constants_do_not_travel() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    model.register_buffer("mask", mask)
    model.register_buffer("order", torch.tensor([2, 0, 1]))
    model.register_buffer("scratch", torch.zeros(5), persistent=False)
    pinned = format_of(model)
    assert [entry.name for entry in pinned.layout] == ["1.weight", "1.bias"]
    assert pinned.frozen is not None
    assert [(entry.name, entry.dtype) for entry in pinned.frozen.entries] == [
        ("mask", "float32"), ("order", "int64"), ("0.weight", "float32"), ("0.bias", "float32"),
    ]  # fmt: skip
    data = frozen_bytes(model, pinned.frozen)
    assert len(data) == pinned.frozen.bytes == 16 + 24 + 24 + 8
    assert digest_of(data).hex() == pinned.frozen.digest
    other = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    other[0].requires_grad_(False)
    other.register_buffer("mask", torch.ones(2, 2))
    other.register_buffer("order", torch.tensor([0, 1, 2]))
    write_frozen(other, pinned.frozen, data)
    assert torch.equal(other.mask, mask)
    assert torch.equal(other[0].weight, model[0].weight)
    assert other.order.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "float16", "bfloat16", "float64", "complex64", "float8_e5m2"]
)
def test_frozen_values_of_every_type_come_back(dtype: str) -> None:
    value = torch.tensor([[1.5, 0.0], [-2.0, 3.0]]).to(getattr(torch, dtype))
    model = with_buffer("fixed", value)
    frozen = format_of(model).frozen
    assert frozen is not None
    other = with_buffer("fixed", torch.zeros_like(value))
    write_frozen(other, frozen, frozen_bytes(model, frozen))
    assert frozen_bytes(other, frozen) == frozen_bytes(model, frozen)


def test_a_task_has_the_last_word_on_an_entry() -> None:
    model = with_buffer("scale", torch.ones(2), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    assert fates(model)["scale"] == "frozen"
    told = fates(model, **{"scale": "statistic", "1": "local", "1.weight": "frozen"})
    assert told["scale"] == "statistic"
    assert told["1.running_var"] == "local"
    assert told["1.weight"] == "frozen"
    assert told["0.weight"] == "trainable"
    with pytest.raises(BadInput, match=r"names 'scal', which the model does not have; did you mean 'scale'"):
        entries_of(model, {"scal": "statistic"})
    with pytest.raises(BadInput, match=r"says 'averaged' of 'scale'; it can be trainable, statistic"):
        entries_of(model, {"scale": "averaged"})
    with pytest.raises(BadInput, match=r"'1.num_batches_tracked' .* is int64 and cannot be statistic"):
        entries_of(model, {"1.num_batches_tracked": "statistic"})


def test_tied_tensors_travel_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    (entry,) = layout_of(model)
    assert (entry.name, entry.also, entry.size) == ("embedding.weight", ("head.weight",), 20)
    write_floats(model, np.arange(20, dtype=np.float32))
    assert model.head.weight is model.embedding.weight
    assert model.head.weight[4].tolist() == [16, 17, 18, 19]


def test_a_shared_module_travels_once() -> None:
    layer = nn.Linear(2, 2)
    assert [(entry.name, entry.also) for entry in layout_of(nn.Sequential(layer, layer))] == [
        ("0.weight", ("1.weight",)),
        ("0.bias", ("1.bias",)),
    ]


def test_complex_parameters_travel_as_two_numbers_each() -> None:
    model = nn.ParameterDict({"spectrum": nn.Parameter(torch.tensor([1 + 2j, 3 - 4j])), "bias": torch.zeros(1)})
    layout = layout_of(model)
    assert [(entry.name, entry.size, entry.is_complex) for entry in layout] == [
        ("bias", 1, False), ("spectrum", 4, True),
    ]  # fmt: skip
    assert read_floats(model).tolist() == [0, 1, 2, 3, -4]
    write_floats(model, np.float32([9, 5, 6, 7, 8]))
    assert model["spectrum"].tolist() == [5 + 6j, 7 + 8j]


def test_the_prefix_of_a_compiled_model_is_left_out() -> None:
    plain = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    inside = nn.Sequential(torch.compile(plain[0]), plain[1])
    for model in (torch.compile(plain), inside):
        assert format_of(model) == format_of(plain)
        write_floats(model, np.arange(16, dtype=np.float32), layout_of(plain))
        assert (read_floats(plain) == np.arange(16)).all()


def test_parametrised_and_pruned_models_travel() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert {entry.name for entry in layout_of(normed)} == {
        "bias", "parametrizations.weight.original0", "parametrizations.weight.original1",
    }  # fmt: skip
    pruned = prune.l1_unstructured(nn.Linear(3, 2), "weight", 2)
    assert fates(pruned) == {"bias": "trainable", "weight_orig": "trainable", "weight_mask": "frozen"}


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 1}

    def set_extra_state(self, state: object) -> None:
        pass


class ExtraTensor(Extra):
    def get_extra_state(self) -> torch.Tensor:
        return torch.zeros(1)


class Copying(nn.Linear):
    def state_dict(self, *arguments: object, **options: object) -> dict[str, torch.Tensor]:
        state = super().state_dict(*arguments, **options)
        return {name: value.detach().clone() for name, value in state.items()}


class Slicing(nn.Linear):
    def state_dict(self, *arguments: object, **options: object) -> dict[str, torch.Tensor]:
        state = super().state_dict(*arguments, **options)
        return state | {"weight": state["weight"][:1]}


class Hiding(nn.Linear):
    def state_dict(self, *arguments: object, **options: object) -> dict[str, torch.Tensor]:
        state = super().state_dict(*arguments, **options)
        return {"weight": state["weight"]}


class Broken(nn.Linear):
    def state_dict(self, *arguments: object, **options: object) -> dict[str, torch.Tensor]:
        raise RuntimeError("gathered on rank 0 only")


def overlapping() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    model[1].weight = nn.Parameter(model[0].weight.T)
    return model


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: nn.LazyLinear(2), r"entry 'weight' .* is not initialised \(a lazy module\): call the model once"),
        (lambda: Extra(3, 2), r"entry '_extra_state' .* is extra state .*: keep it in a buffer"),
        (lambda: nn.Sequential(ExtraTensor(3, 2)), r"entry '0._extra_state' .* is extra state"),
        (lambda: nn.ReLU(), r"has no trainable entry: a floating-point parameter with requires_grad"),
        (lambda: nn.Linear(3, 2).requires_grad_(False), r"has no trainable entry"),
        (lambda: with_buffer("codes", torch.ones(3, dtype=torch.int64), nn.ReLU()), r"has no trainable entry"),
        (lambda: with_buffer("grid", torch.ones(1, 3).expand(4, 3)), r"entry 'grid' .* is expanded.*\.clone\(\)"),
        (lambda: nn.Linear(3, 2, device="meta"), r"entry 'weight' .* is on the meta device"),
        (lambda: with_buffer("graph", torch.eye(3).to_sparse()), r"entry 'graph' .* is sparse"),
        (lambda: Copying(3, 2), r"entry 'weight' .* is a copy or a part that state_dict\(\) makes"),
        (lambda: Slicing(3, 2), r"entry 'weight' .* is a copy or a part that state_dict\(\) makes"),
        (lambda: Hiding(3, 2), r"entry 'bias' .* is trained and not in the state_dict"),
        (lambda: Broken(3, 2), r"state_dict\(\) of the task's model fails: RuntimeError: gathered on rank 0 only"),
        (overlapping, r"shares part of its memory with"),
        (
            lambda: with_buffer("big", torch.ones(2, dtype=torch.complex128)),
            r"entry 'big' .* is a frozen complex128, which cannot be pinned: say \"local\"",
        ),
    ],
)
def test_what_cannot_travel_is_refused_by_name(build: object, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        format_of(build())


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated, and used all the same
def test_quantised_modules_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"entry '0\..*' .* not a tensor, as quantised modules have them"):
        format_of(quantised())


def test_a_model_that_training_has_changed_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    layout = layout_of(model)
    model[0].weight = nn.Parameter(torch.zeros(2, 4))
    with pytest.raises(BadInput, match=r"entry '0.weight' of the model has the shape \(2, 4\), not \(2, 3\)"):
        read_floats(model, layout)
    with pytest.raises(BadInput, match=r"entry '0.weight' of the model is gone"):
        write_floats(nn.Linear(3, 2), np.zeros(8, np.float32), layout)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_read_and_written_as_float32(dtype: str) -> None:
    model = torch.nn.Linear(2, 2).to(getattr(torch, dtype))
    values = np.float32([0.5, -1.5, 3.25, 0, 1, -2])
    write_floats(model, values)
    assert read_floats(model).dtype == np.float32
    assert (read_floats(model) == values).all()
    assert model.weight.dtype == getattr(torch, dtype)


def test_transposed_parameters_keep_their_order() -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    model.weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2).T)
    assert read_floats(model).tolist() == [0, 2, 4, 1, 3, 5]
    write_floats(model, np.arange(6, dtype=np.float32))
    assert model.weight.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("size", [0, 5, 7])
def test_another_size_is_refused(size: int) -> None:
    with pytest.raises(BadInput, match="does not have the layout"):
        write_floats(torch.nn.Linear(2, 2), np.zeros(size, np.float32))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_entries_of_many_blocks_are_written_as_they_are_read(monkeypatch: pytest.MonkeyPatch, memory: object) -> None:
    monkeypatch.setattr(state_dict, "BLOCK", 4)
    model = nn.Conv2d(3, 2, 2).to(memory_format=memory)
    values = np.arange(26, dtype=np.float32)
    write_floats(model, values)
    assert (read_floats(model) == values).all()
    room = np.zeros(26, np.float32)
    assert read_floats(model, out=room) is room
    assert (room == values).all()
    layout = layout_of(model)
    assert holds_floats(model, values, layout)
    values[-1] += 1
    assert not holds_floats(model, values, layout)


def test_a_model_in_double_precision_is_another_one_where_float32_cannot_tell() -> None:
    model = nn.Linear(2, 2).double()
    values = np.ones(6, np.float32)
    write_floats(model, values)
    assert holds_floats(model, values, layout_of(model))
    with torch.no_grad():
        model.bias += 1e-12
    assert not holds_floats(model, values, layout_of(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("least", [1, 1 << 19])
def test_a_model_that_is_kept_in_a_file_is_encoded_as_in_memory(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, least: int
) -> None:
    monkeypatch.setattr(state_dict, "BLOCK", 4)
    model = nn.Sequential(
        nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last), nn.BatchNorm2d(7), nn.Linear(7, 3)
    ).to(dtype)
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
            tensor.copy_(torch.rand(tensor.shape))
    format_ = format_of(model, least_variance=least)
    kept = keep_model(model, format_)
    assert (load(kept) == encode_model(read_floats(model, format_.layout), format_)).all()
    assert np.frombuffer(kept.view(), "<i4").tolist() == load(kept).tolist()


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "entry 'bias' of the model contains NaN"), (1e9, "value of .* 'bias' exceeds")]
)
def test_what_no_model_can_hold_is_named_by_its_entry(value: float, said: str) -> None:
    model = nn.Linear(3, 2)
    model.bias.data[1] = value
    with pytest.raises(BadVector, match=said):
        keep_model(model, format_of(model))
