from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from deepledger.api.simulation import _remembered
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.canonical import parse_json
from deepledger.protocol.formats.metrics import ACCURACY, LOSS
from deepledger.protocol.formats.spec import MAX_SPEC_BYTES, build_spec, parse_spec, spec_bytes


def layout(*entries):
    return {"fraction_bits": 20, "layout": [{"name": n, "shape": s, "offset": o} for n, s, o in entries]}


def test_a_spec_is_one_byte_string(spec_of):
    spec = spec_of(model=layout(("a", [3, 4], 0), ("b", [], 12), ("none", [0, 9], 13), ("c", [2], 13)))
    data = spec_bytes(spec)
    assert parse_spec(data) == spec
    assert spec_bytes(parse_spec(data)) == data
    assert spec.model.coordinates == 15
    assert (spec.model_bytes, spec.update_bytes) == (60, 30)
    assert spec.validation_digest == bytes.fromhex("cd" * 32)


def test_a_share_of_the_coordinates_is_said_only_where_there_is_one(spec_of):
    """All of them is what every spec says that says nothing: there is one way to write it."""
    update = {"bits": 8, "fraction_bits": 4, "norm_bound": 1.0}
    whole, same = spec_of(update=update), spec_of(update=update | {"share": 1})
    assert (whole.sparse, whole.update_bytes) == (None, 10)
    assert spec_bytes(whole) == spec_bytes(same)
    assert b"share" not in spec_bytes(whole)
    with pytest.raises(BadSpec, match="canonical form"):
        parse_spec(spec_bytes(whole).replace(b'"norm_bound":1', b'"norm_bound":1,"share":1'))
    some = spec_of(coordinates=1000, update=update | {"share": 0.02})
    assert (some.sparse.most, some.update_bytes, some.blob_bytes) == (20, 40, 40)  # 20 bytes are values
    assert parse_spec(spec_bytes(some)) == some


@pytest.mark.parametrize(
    ("screening", "rounds"),
    [(None, 0), ({}, 2), ({"memory_rounds": 4}, 4), ({"memory_rounds": 0}, 0), ({"copy_percent": 0}, 0)],
)
def test_nothing_is_remembered_where_copies_are_not_looked_for(spec_of, screening, rounds):
    spec = spec_of() if screening is None else spec_of(screening=screening)
    assert spec.remembered_rounds == rounds
    game = SimpleNamespace(bench=SimpleNamespace(spec=spec), history=[[number] for number in range(5)])
    assert _remembered(game) == tuple(range(4, 4 - rounds, -1))


def test_numbers_survive_canonical_form(spec_of):
    """RFC 8785 writes 1.0 as 1: what comes back equals it, and has the same bytes."""
    hyperparameters = {"rate": 1.0, "tiny": 1e-300, "third": 1 / 3, "on": False, "n": -7, "big": 2**53 - 1}
    spec = spec_of(training={"seed": 2**53 - 1, "hyperparameters": hyperparameters})
    back = parse_spec(spec_bytes(spec))
    assert back.training.hyperparameters == hyperparameters
    assert back.training.hyperparameters["on"] is False
    assert spec_bytes(back) == spec_bytes(spec)


VALIDATION = {"digest": "cd" * 32, "bytes": 100}


def measured(**changes):
    metrics = {"loss": LOSS.model_dump(), "accuracy": ACCURACY.model_dump()}
    return {"metrics": metrics | {name: metrics.get(name, {}) | change for name, change in changes.items()}}


SHARE = {"bits": 8, "fraction_bits": 4, "norm_bound": 1.0, "share": 0.1}
WRONG = {
    "unknown field": ({"extra": 1}, "extra: there is no such key"),
    "missing part": ({"rewards": None}, "rewards: "),
    "bits": ({"update": {"bits": 12, "fraction_bits": 4, "norm_bound": 1.0}}, "update.bits"),
    "number as text": ({"max_samples": "5"}, "max_samples: '5' is not a whole number"),
    "true for a number": ({"max_samples": True}, "max_samples"),
    "no bound": ({"update": {"bits": 8, "fraction_bits": 4, "norm_bound": 0.0}}, "update.norm_bound"),
    "infinite": ({"update": {"bits": 8, "fraction_bits": 4, "norm_bound": float("inf")}}, "update.norm_bound"),
    "nan": ({"training": {"seed": 1, "hyperparameters": {"rate": float("nan")}}}, "training.hyperparameters.rate"),
    "name": ({"name": "../../etc"}, "name: '../../etc' does not match ^"),
    "control characters": ({"name": "a\x1b[2J"}, "name"),
    "hash": ({"task": {"name": "t", "sha256": "AB" * 32}}, "task.sha256"),
    "argument that is no name": ({"training": {"seed": 1, "hyperparameters": {"a b": 1}}}, "training.hyperparameters"),
    "list in a list": ({"training": {"seed": 1, "hyperparameters": {"a": [[1]]}}}, "training.hyperparameters.a"),
    "suffix that leaves": ({"validation": VALIDATION | {"suffix": "/../x"}}, "validation.suffix"),
    "rule": ({"aggregation": {"rule": "magic"}}, "aggregation"),
    "a share of nothing": ({"update": SHARE | {"share": 0.0}}, "update.share: 0.0 is not more than 0"),
    "more than all": ({"update": SHARE | {"share": 1.5}}, "update.share: 1.5 is more than 1"),
    "four bits of all": (
        {"update": SHARE | {"share": 1, "bits": 4}},
        "is for updates of which a share travels: set update.share",
    ),
    "longer than all": (
        {"update": SHARE | {"share": 0.8}},
        "11 bytes, and all of them without take 10",
    ),
    "median of a share": (
        {"update": SHARE, "aggregation": {"rule": "median"}},
        'median looks at one coordinate of all updates, of which most have nothing there: take rule = "weighted_mean"',
    ),
    "trimmed mean of a share": (
        {"update": SHARE, "aggregation": {"rule": "trimmed_mean", "trim_percent": 20}},
        "trimmed_mean looks at one coordinate",
    ),
    "trusted share": (
        {"update": SHARE, "aggregation": {"rule": "fltrust", "trusted": "0x" + "f" * 40}},
        "fltrust looks at one coordinate",
    ),
    "momentum of a share": (
        {"update": SHARE, "aggregation": {"rule": "centered_clipping", "radius": 1.0, "momentum_percent": 50}},
        "set aggregation.momentum_percent to 0",
    ),
    "a share too small to tell noise": (
        {"update": SHARE | {"share": 0.001}, "screening": {}},
        "look like noise: set screening.profile_percent = 0, or raise update.share",
    ),
    "a share behind noise": (
        {
            "update": SHARE | {"bits": 16, "norm_bound": 9.0},
            "participant_privacy": {"mechanism": "local", "clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5},
        },
        "the noise of participant_privacy hides only how far they move",
    ),
    "masked share": (
        {"update": SHARE, "privacy": "masked", "masks": {}, "rewards": {"policy": "equal"}},
        "masks add up only where everybody sends the same coordinates, and here each sends those that its own data "
        'move: leave it out, or take privacy = "sealed"',
    ),
    "trims all": ({"aggregation": {"rule": "trimmed_mean", "trim_percent": 50}}, "trim_percent"),
    "gap": ({"model": layout(("a", [3], 0), ("b", [1], 4))}, "layout entry 'b' starts at 4, expected 3"),
    "overlap": ({"model": layout(("a", [3], 0), ("b", [1], 2))}, "starts at 2, expected 3"),
    "same name": ({"model": layout(("a", [3], 0), ("a", [1], 3))}, "two layout entries have the same name"),
    "no coordinates": ({"model": layout(("a", [0], 0))}, "0 coordinates"),
    "too many": ({"model": layout(("a", [2**30, 2**30], 0))}, "coordinates, allowed are 1 to"),
    "negative shape": ({"model": layout(("a", [-3, -3], 0))}, "shape.0"),
    "finer than the model": ({"update": {"bits": 8, "fraction_bits": 21, "norm_bound": 1.0}}, "(21) exceeds"),
    "overflow": (
        {"update": {"bits": 32, "fraction_bits": 10, "norm_bound": 1.0}, "max_samples": 2**31},
        "lower update",
    ),
    "loose where losses pay": (
        {"rewards": {"policy": "contribution"}, "validation": VALIDATION | measured(loss={"tolerance": 1e-3})},
        "the tolerance of loss is 0.001 and 0 samples, but pay follows contribution to it, which allows at most 0.0001",
    ),
    "loose where correct samples pay": (
        {
            "rewards": {"policy": "contribution", "metric": "accuracy"},
            "validation": VALIDATION | measured(accuracy={"ties": 2}),
        },
        "the tolerance of accuracy is 0 and 2 samples, but pay follows contribution to it, which allows at most 0.0001 "
        "and 1",
    ),
    "metric that nobody measures": (
        {"rewards": {"policy": "contribution", "metric": "rmse"}},
        "rewards.metric is 'rmse', and the task measures loss, accuracy",
    ),
    "loose where a metric pays": (
        {
            "rewards": {"policy": "contribution", "metric": "ndcg"},
            "validation": VALIDATION | measured(ndcg={"better": "higher", "ties": 2}),
        },
        "the tolerance of ndcg is 1e-05 and 2 samples",
    ),
    "no loss": ({"validation": VALIDATION | {"metrics": {}}}, "of loss, lower is better, and its scale is 1"),
    "a loss to be raised": (
        {"validation": VALIDATION | measured(loss={"better": "higher"})},
        "of loss, lower is better",
    ),
    "an accuracy of its own": (
        {"validation": VALIDATION | measured(accuracy={"scale": 100.0})},
        "of accuracy, higher is better, and its scale is 1",
    ),
    "direction": (
        {"validation": VALIDATION | measured(rmse={"better": "less"})},
        "validation.metrics.rmse.better: 'less' is not 'lower' or 'higher'",
    ),
    "no scale": ({"validation": VALIDATION | measured(rmse={"better": "lower", "scale": 0.0})}, "rmse.scale"),
    "secret": ({"privacy": "secret"}, "privacy: 'secret' is not 'open', 'sealed', 'masked' or 'encrypted'"),
    "sealed to nobody": ({"privacy": "sealed"}, "readers are those of sealed updates"),
    "open to some": ({"readers": ["02" + "ab" * 32]}, "readers are those of sealed updates"),
    "sealed twice": ({"privacy": "sealed", "readers": ["02" + "ab" * 32] * 2}, "a reader stands twice"),
    "other version": ({"version": 2}, "version"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_spec_is_refused_in_one_line(change, message, spec_fields):
    with pytest.raises(BadSpec) as refusal:
        build_spec(spec_fields() | change)
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_evaluations_may_differ_further_where_nothing_is_paid_for_them(spec_of):
    assert spec_of(validation=VALIDATION | measured(loss={"tolerance": 1e-3}, accuracy={"ties": 9}))
    assert spec_of().validation.metrics == {"loss": LOSS, "accuracy": ACCURACY}
    by_accuracy = {"policy": "contribution", "metric": "accuracy"}
    assert spec_of(rewards=by_accuracy, validation=VALIDATION | measured(loss={"tolerance": 1e-3}))


def test_a_job_pays_by_a_metric_of_its_own(spec_of):
    rmse = {"better": "lower", "scale": 10.0}
    by_rmse = {"policy": "contribution", "metric": "rmse"}
    spec = spec_of(rewards=by_rmse, validation=VALIDATION | measured(rmse=rmse))
    assert parse_spec(spec_bytes(spec)) == spec
    assert spec.headline == "rmse"
    assert spec_of(validation=VALIDATION | measured(rmse=rmse)).headline == "accuracy"
    assert spec_of(validation=VALIDATION | {"metrics": {"loss": {"better": "lower"}, "rmse": rmse}}).headline == "rmse"
    assert spec_of(validation=VALIDATION | {"metrics": {"loss": {"better": "lower"}}}).headline == "loss"


@pytest.mark.parametrize("fields", [None, [], "spec", 5, {}])
def test_what_is_no_spec_is_refused(fields):
    with pytest.raises(BadSpec, match="does not validate"):
        build_spec(fields)


def test_a_strangers_words_do_not_reach_the_terminal_raw(spec_fields):
    with pytest.raises(BadSpec) as refusal:
        build_spec(spec_fields() | {"\x1b[2J\nyou won" + "!" * 10_000: 1})
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000


HOSTILE = {
    "empty": b"",
    "not text": b"\xff\xfe\x00",
    "cut off": b'{"name": "x"',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a key twice": b'{"a": 1, "a": 1}',
    "endless nesting": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "endless number": b"1" * 100_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_is_refused(data):
    for parse in (parse_json, parse_spec):
        with pytest.raises(BadSpec, match="not valid JSON") as refusal:
            parse(data)
        assert "\n" not in str(refusal.value)


def test_numbers_beyond_floats_are_refused(spec_of):
    data = spec_bytes(spec_of()).replace(b'"rate":0.5', b'"rate":1e999')
    with pytest.raises(BadSpec, match="rate"):
        parse_spec(data)


def test_lone_surrogates_are_refused(spec_of):
    data = spec_bytes(spec_of()).replace(b'"w"', b'"\\ud800"').replace(b'"sgd"', b'"\\udfff"')
    with pytest.raises(BadSpec):
        parse_spec(data)


def test_integers_that_json_cannot_carry_are_refused(spec_of):
    with pytest.raises(BadSpec, match="canonical JSON"):
        spec_bytes(spec_of(training={"seed": 1, "hyperparameters": {"n": 2**53}}))
    data = spec_bytes(spec_of()).replace(b'"epochs":1', b'"epochs":9007199254740993')
    with pytest.raises(BadSpec, match="canonical JSON"):
        parse_spec(data)


def test_only_the_canonical_form_is_read(spec_of):
    spec = spec_of()
    fields = json.loads(spec_bytes(spec))
    for data in (
        json.dumps(fields).encode(),
        spec_bytes(spec) + b"\n",
        spec_bytes(spec).replace(b'"privacy":"open",', b""),
        spec_bytes(spec).replace(b"0.5", b"5e-1"),
        spec_bytes(spec).decode().encode("utf-16"),
    ):
        with pytest.raises(BadSpec, match=r"canonical form|not valid JSON"):
            parse_spec(data)


def test_an_oversized_spec_is_not_even_parsed():
    with pytest.raises(BadSpec, match=f"more than {MAX_SPEC_BYTES} bytes"):
        parse_spec(b"[" * (MAX_SPEC_BYTES + 1))


def test_the_square_limit_is_exact(spec_of):
    update = spec_of(update={"bits": 16, "fraction_bits": 16, "norm_bound": 0.1}).update
    assert update.square_limit == int(0.1 * 2**16 * 0.1 * 2**16)
    assert spec_of(update={"bits": 8, "fraction_bits": 0, "norm_bound": 3}).update.square_limit == 9


@pytest.mark.parametrize(
    ("rule", "withstood"),
    [
        ({"rule": "weighted_mean"}, {64: 0}),
        ({"rule": "median"}, {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2}),
        ({"rule": "median", "bucket_size": 2}, {4: 0, 5: 1, 6: 1, 9: 2}),
        ({"rule": "trimmed_mean", "trim_percent": 20}, {4: 0, 5: 1, 10: 2}),
        ({"rule": "multi_krum", "byzantine_percent": 40}, {6: 0, 7: 2, 8: 0, 9: 3, 10: 0, 11: 4, 12: 4}),
        ({"rule": "dnc", "byzantine_percent": 30}, {3: 0, 4: 1, 10: 3}),
        ({"rule": "centered_clipping", "radius": 1.0}, {10: None}),
    ],
)
def test_how_many_bad_updates_a_rule_withstands(spec_of, rule, withstood):
    aggregation = spec_of(aggregation=rule).aggregation
    assert {updates: aggregation.withstands(updates) for updates in withstood} == withstood
