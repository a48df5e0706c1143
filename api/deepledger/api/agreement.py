"""A job's spec and terms as something that a person can agree to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from deepledger.api.groups import is_dealt, of_encrypted, of_groups, of_masked, of_masked_bytes
from deepledger.api.noise import of_noise
from deepledger.api.words import count, duration, eth
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.formats.metrics import BUILT_IN, Metric
from deepledger.protocol.formats.model import FrozenEntry, LayoutEntry, ModelFormat
from deepledger.protocol.formats.policies import ContributionRewards, EqualRewards, Rewards, SampleRewards, Screening
from deepledger.protocol.formats.rules import (
    AggregationRule,
    CenteredClipping,
    DnC,
    FLTrust,
    Median,
    MultiKrum,
    TrimmedMean,
    WeightedMean,
)
from deepledger.protocol.formats.spec import DifferentialPrivacy, JobSpec
from deepledger.protocol.privacy.ecies import address_of
from deepledger.protocol.types import Wei

_MOST_NAMES = 6
PRIVACY = {
    "open": "open: every update is published and everybody may read it for ever; your data never leaves this machine, "
    "but an update can betray something about it",
    "sealed": "sealed: every update is published encrypted, and only {readers} can read it, for ever; everybody else "
    "sees what is made of all of them: the model after every round, results and pay",
}
MASK_KEYS = {
    "x25519": "X25519: who keeps what is published, and has a quantum computer one day, can then read single updates",
    "x25519+mlkem768": "X25519 and ML-KEM-768 together: single updates stay secret while either of the two does; from "
    "a mask secret in the account's file, of which you need a backup",
}


def of_spec(spec: JobSpec) -> dict[str, object]:
    """What is trained, and what is published about it."""
    hyperparameters = ", ".join(f"{name} = {value}" for name, value in spec.training.hyperparameters.items())
    return {
        "task": f"{spec.task.name}, source SHA-256 {spec.task.sha256}",
        "model": f"{spec.model.coordinates:,} weights in {len(spec.model.layout)} tensors, {spec.model_bytes:,} bytes",
        **of_fates(spec.model),
        "update": of_update(spec),
        "training": f"{hyperparameters or 'no hyperparameters'}; seed {spec.training.seed}",
        "aggregation": of_rule(spec.aggregation),
        "screening": "none: nobody sees single updates" if spec.masks else of_screening(spec.screening) + _of_few(spec),
        "validation": of_validation(spec),
        "measured by": of_metrics(spec.validation.metrics),
        **({"beware": "; ".join(spec.loose)} if spec.loose else {}),
        "sample limit": f"{spec.max_samples:,}: who declares more weighs and earns as this",
        **of_readers(spec),
    }


def of_readers(spec: JobSpec) -> dict[str, str]:
    """Who sees what of a participant."""
    return {
        "privacy": of_privacy(spec),
        **({"of single samples": of_samples(asked)} if (asked := spec.differential_privacy) else {}),
        **({"mask keys": MASK_KEYS[spec.masks.keys]} if spec.masks else {}),
    }


def of_update(spec: JobSpec) -> str:
    """What everybody sends in every round."""
    update, sparse = spec.update, spec.sparse
    size = spec.update_bytes if spec.masks is not None else spec.blob_bytes
    text = f"int{update.bits}, {size:,} bytes a round, L2 norm at most {update.norm_bound:g}"
    if sparse is None:
        return text
    statistics = ", and all statistics" if sparse.statistics else ""
    return (
        f"{text}: which {sparse.most:,} of {sparse.trained:,} weights move most, and how far{statistics}; "
        f"{100 * size / spec.model_bytes:.2g} % of what all would take as float32. The rest is kept for "
        "the next round"
    )


def _of_few(spec: JobSpec) -> str:
    """What screening and robust rules are worth where each update has coordinates of its own."""
    if spec.sparse is None or (spec.screening is None and isinstance(spec.aggregation, WeightedMean)):
        return ""
    return "; where each sends other weights, flipped signs are hardly found, and robust rules withstand less"


def of_samples(asked: DifferentialPrivacy) -> str:
    return (
        f"differential privacy: every training adds noise of {asked.noise_multiplier:g} clip norms or more, clips to "
        f"{asked.clip_norm:g} or less, and your node refuses one that does not. What ε a round costs, told at δ = "
        f"{asked.delta:g}, depends on how many samples you have: `join` tries it and says so before it stakes. "
        "Nobody can check it of others: noise inside training cannot be seen"
    )


def of_privacy(spec: JobSpec) -> str:
    if spec.privacy == "encrypted":
        return of_encrypted(spec)
    if spec.masks is not None:
        return of_masked(spec.masks)
    if spec.privacy != "sealed":
        return PRIVACY[spec.privacy]
    readers = ", ".join(address_of(bytes.fromhex(reader)) for reader in spec.readers)
    return PRIVACY["sealed"].format(readers=readers)


def of_fates(model: ModelFormat) -> dict[str, str]:
    """What becomes of every entry: what travels, and what does not."""
    kinds: dict[str, list[LayoutEntry]] = {"trainable": [], "statistic": [], "variance": []}
    for entry in model.layout:
        kinds[entry.kind].append(entry)
    frozen = model.frozen
    rows = {
        "trained": _of_entries(kinds["trainable"], "sent as updates"),
        "statistics": _of_entries(kinds["statistic"] + kinds["variance"], "averaged; variances stay above zero"),
        "frozen": _of_entries(frozen.entries, f"pinned, {frozen.bytes:,} bytes that never travel") if frozen else "",
        "local": f"{_names(model.local)}: everybody's own" if model.local else "",
    }
    return {name: text for name, text in rows.items() if text}


def _of_entries(entries: Sequence[LayoutEntry | FrozenEntry], what: str) -> str:
    values = sum(prod(entry.shape) for entry in entries)
    names = [" = ".join((entry.name, *entry.also)) for entry in entries]
    return f"{count(values, 'value')}, {what}: {_names(names)}" if entries else ""


def _names(names: Sequence[str]) -> str:
    """All of a few; of many the first and the last."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 2])}, …, {names[-1]} ({len(names)} tensors)"


def of_validation(spec: JobSpec) -> str:
    blob = f"{cid_of(spec.validation_digest)}, {spec.validation.bytes:,} bytes"
    if spec.validation.withheld is None:
        return f"{blob}, public"
    return (
        f"{blob}, withheld: encrypted, and only {len(spec.validation.withheld.keys)} coordinators can open it until "
        "the job closes; from then on its evaluations can be audited"
    )


def of_metrics(metrics: Mapping[str, Metric]) -> str:
    return "; ".join(
        f"{name}, {metric.better} is better, within {metric.tolerance:g} of {metric.scale:g} or of its size"
        + (f" and {count(metric.ties, 'sample')}" if metric.ties else "")
        for name, metric in metrics.items()
    )


def heading(name: str, metric: Metric) -> str:
    """Of a column of results."""
    return name if name in BUILT_IN else f"{name} ({metric.better} is better)"


def of_rule(rule: AggregationRule) -> str:
    match rule:
        case WeightedMean():
            text = "mean, weighted by declared samples"
        case Median():
            text = "median of each coordinate"
        case TrimmedMean():
            text = f"trimmed mean, without the {rule.trim_percent} % largest and smallest values"
        case MultiKrum():
            text = f"Multi-Krum: the mean without the {rule.byzantine_percent} % farthest from their neighbours"
        case CenteredClipping():
            rounds = round(100 / (100 - rule.momentum_percent))
            text = f"centered clipping, radius {rule.radius:g}, momentum {rule.momentum_percent} %"
            if rounds > 1:
                text += f": what is learned in a round is spread over about {rounds}"
        case FLTrust():
            text = f"FLTrust: as far as updates point where that of {rule.trusted} does"
        case DnC():
            text = f"DnC: the mean without the {rule.byzantine_percent} % that stand out most, {rule.iterations} times"
    return text if rule.bucket_size == 1 else f"{text}; of means of {rule.bucket_size} updates drawn by lot"


def of_what_it_withstands(rule: AggregationRule, seats: int) -> str | None:
    """How many bad updates a rule withstands, and from how many on; None where that cannot be said in numbers."""
    bad = [rule.withstands(updates) for updates in range(seats + 1)]
    if None in bad:
        return None
    some = [updates for updates, withstood in enumerate(bad) if withstood]
    if not some:
        return "no bad update"
    gaps = [str(updates) for updates in range(some[0], seats + 1) if updates not in some]
    others = f", nor of {' or '.join(gaps)}" if gaps else ""
    return f"{count(bad[some[-1]] or 0, 'bad update')} of {some[-1]}; none of fewer than {some[0]}{others}"


def of_rewards(rewards: Rewards, *, dealt: bool = False) -> str:
    """`dealt`: into groups, which are what contributes."""
    match rewards:
        case EqualRewards():
            return "alike"
        case SampleRewards():
            return "in proportion to declared samples"
        case ContributionRewards():
            measure = {"leave_one_out": "leave-one-out", "shapley": "Shapley value"}[rewards.measure]
            floor = f"{rewards.floor_percent} % of it alike, the rest " if rewards.floor_percent else ""
            alike = {"equal": "alike", "samples": "by declared samples"}[rewards.unresolved]
            whose = " of the group, alike within it" if dealt else ""
            return (
                f"{floor}by contribution{whose} ({measure}, by {rewards.metric} on the validation set; {alike} in a "
                "round in which it is too small to tell)"
            )


def of_screening(screening: Screening | None) -> str:
    """What costs a round's pay besides bytes that do not fit."""
    if screening is None:
        return "none: only exact copies and the norm bound"
    harm = screening.harm_percent
    signs = {
        "near copies": screening.copy_percent,
        "updates far longer than the others": screening.scaled_percent,
        "noise": screening.profile_percent,
        "flipped signs": screening.opposed_percent,
        f"updates that raise the loss by more than {harm} %": harm,
    }
    found = ", ".join(name for name, limit in signs.items() if limit)
    removed = (
        f"; who falls below a reputation of {screening.remove_percent} % is out" if screening.remove_percent else ""
    )
    return f"not accepted: {found}, unchanged models{removed}"


def of_terms(terms: JobTerms, spec: JobSpec | None = None) -> dict[str, object]:
    """How long it lasts, what is paid and what can be lost; enforced by the contract."""
    longest = terms.rounds * (terms.commit_window + terms.reveal_window + (1 + terms.masked) * terms.settle_window)
    show_it = "release shares" if terms.masked else "reveal"
    shared = f", divided {of_rewards(spec.rewards, dealt=is_dealt(spec))} among accepted updates" if spec else ""
    groups = of_groups(spec, terms) if spec else {}
    withstood = of_what_it_withstands(spec.aggregation, terms.max_participants) if spec and not groups else None
    kept = ", all of it if it does not disclose the validation set in the end" if terms.withheld else ""
    return {
        "spec": cid_of(terms.spec_digest),
        "first model": cid_of(terms.model_digest),
        "rounds": f"{terms.rounds}, {duration(longest)} at the longest if none starves",
        "participants": f"{terms.min_participants} to {terms.max_participants}"
        + (f", of {count(len(spec.admitted), 'listed account')}" if spec and spec.admitted else ""),
        **({"withstands": withstood} if withstood else {}),
        **groups,
        **(of_masked_bytes(spec, terms) if spec else {}),
        **(of_noise(spec, terms) if spec else {}),
        "windows": f"{duration(terms.commit_window)} to train and commit, "
        + (f"{duration(terms.settle_window)} to count, " if terms.masked else "")
        + f"{duration(terms.reveal_window)} to {show_it}, {duration(terms.settle_window)} to settle; each ends early "
        "when all have acted",
        "reward": f"{eth(terms.reward)} a round{shared}; {eth(Wei(terms.reward * terms.rounds))} in all, in escrow",
        "stake": f"{eth(terms.stake)}, yours again when you leave",
        "you lose": f"{eth(terms.reveal_penalty)} of it each time you "
        + ("are counted and do not release shares; " if terms.masked else "commit and do not reveal; ")
        + f"your seat (not the stake) after {count(terms.miss_limit, 'missed attempt')} in a row, after the "
        "next one if you come back",
        "coordinator": f"deposits {eth(terms.bond)} and loses {eth(terms.settle_penalty)} if it settles too late{kept}",
    }


def terms_json(terms: JobTerms) -> dict[str, Any]:
    windows = ("commit_window", "reveal_window", "settle_window")
    numbers = ("rounds", "min_participants", "max_participants", "miss_limit", *windows)
    amounts = ("reward", "stake", "reveal_penalty", "bond", "settle_penalty")
    return {
        "spec": cid_of(terms.spec_digest),
        "first_model": cid_of(terms.model_digest),
        "first_model_root": terms.model_root.hex(),
        "validation_lock": terms.validation_lock.hex() if terms.withheld else None,
        "admission": terms.admission.hex() if terms.restricted else None,
        "masked": terms.masked,
        **{name: getattr(terms, name) for name in numbers},
        **{name: str(getattr(terms, name)) for name in amounts},
    }
