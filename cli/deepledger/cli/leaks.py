"""What the attacks of `deepledger privacy attack` have found: as a table, as JSON and as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepledger.cli import show
from deepledger.protocol.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

    from deepledger.node.attacks.laboratory import Findings, Found
    from deepledger.protocol.formats.private_run import PrivateRun
    from deepledger.protocol.formats.spec import JobSpec

ATTACKS = {
    "inversion": "what a record looks like, from the gradient (Geiping et al. 2020)",
    "threshold": "whether a record was trained on, from its loss (Yeom et al. 2018)",
    "lira": "whether a record was trained on, with shadow models (LiRA, Carlini et al. 2022)",
    "shares": "the shares of labels among all records (Melis et al. 2019)",
}
_LAST = "What these attacks do not find, others may find: nothing here shows that an update is safe to share."
_CHANCE = (
    "as if you trained on half of your records, drawn by lot: the chance that one of them looks more like it than one "
    "of the other half (0.5: a guess), in a 99 % interval"
)
_EXPLAINED = {
    "inversion": "dB to the nearest record that was trained on, and to the nearest with such labels that was not; the "
    "control is one record and one step",
    "threshold": f"{_CHANCE}; the control is the model before your update",
    "lira": f"{_CHANCE}; there is no control",
    "shares": "correlation with the truth, over updates made to learn from, in a 99 % interval; there is no control",
}
_DELTA = 1e-5


def tell(findings: Findings, spec: JobSpec, participants: int) -> None:
    from deepledger.node.attacks.laboratory import ALONE, CONTROL, SUMMED, Attack

    sights = (ALONE, SUMMED, CONTROL)
    show.table(
        ["attack", "asks", "your update", f"a sum of {participants}", "control"],
        [
            [name, ATTACKS[name], *(_cell(found[sight]) if sight in found else "–" for sight in sights)]
            for name, found in findings.found.items()
        ],
    )
    for name, why in findings.unsuited.items():
        of_sum = f" against a sum of {participants}" if name in findings.found else ""
        show.note(f"{name}: not tried{of_sum}, {why}")
    reads = {
        "open": "this job is open: everybody reads your update",
        "sealed": "this job is sealed: its readers read your update, everybody else the sum, as the next model",
        "masked": "this job is masked: everybody reads the sum, and nobody your update",
        "encrypted": "this job's updates are encrypted: everybody reads the sum, and nobody your update",
    }
    show.note(f"{findings.samples:,} of your records against {findings.beside:,} not trained on; {reads[spec.privacy]}")
    if spec.sparse is not None:
        show.note(
            "few coordinates travel: this is an update of a first round, and later ones carry what earlier ones left"
        )
    for name in findings.found:
        show.note(f"{name}: {_EXPLAINED[name]}")
    for line in _of_privacy(findings.private, spec):
        show.note(line)
    for name, found in findings.found.items():
        if name == Attack.INVERSION and not found[CONTROL].found:
            show.note("inversion failed in its control, too: of this model it says nothing")
        for sight, what in ((ALONE, "your update"), (SUMMED, f"a sum of {participants}")):
            if sight in found and found[sight].found:
                show.out(f"found: {name} works against {what}")
    show.out(_LAST)


def _of_privacy(run: PrivateRun | None, spec: JobSpec) -> list[str]:
    """What is guaranteed, whatever attacks find."""
    from deepledger.node.accountant import Accountant
    from deepledger.protocol.privacy.skellam import epsilon_of_rounds

    told = []
    if run is not None and run.past is not None:
        told.append(f"the task's training guarantees nothing: {run.past}")
    elif run is not None:
        delta = spec.differential_privacy.delta if spec.differential_privacy else _DELTA
        spent = Accountant(run.steps).epsilon(delta)
        told.append(f"of every record, this round alone shows no more than ε = {spent:.3g} at δ = {delta:g}")
    if spec.participant_privacy is not None and spec.release is not None:
        delta, of_sum = spec.participant_privacy.delta, spec.participant_privacy.mechanism == "distributed"
        spent = epsilon_of_rounds(spec.release, rounds=1, delta=delta)
        told.append(
            f"of all your data, {'the sum' if of_sum else 'your update'} of this round alone shows no more than "
            f"ε = {spent:.3g} at δ = {delta:g}"
        )
    return told or ["nothing is private by noise here (docs/privacy.md, differential privacy)"]


def _cell(found: Found) -> str:
    from deepledger.node.attacks.inversion import Reconstruction
    from deepledger.node.attacks.measures import Separation

    mark = "found, " if found.found else ""
    if isinstance(found, Reconstruction):
        return f"{mark}{found.nearest:.1f} dB, others {found.nearest_other:.1f}"
    if isinstance(found, Separation):
        return f"{mark}{found.auc:.2f} ({found.low:.2f} to {found.high:.2f})"
    return f"{mark}{found.fit.correlation:.2f} ({found.fit.low:.2f} to {found.fit.high:.2f})"


def as_json(findings: Findings, participants: int) -> dict[str, Any]:
    return {
        "participants": participants,
        "samples": findings.samples,
        "beside": findings.beside,
        "private": findings.private is not None and findings.private.past is None,
        "attacks": {
            name: {sight: _numbers(each) for sight, each in found.items()} for name, found in findings.found.items()
        },
        "not_tried": dict(findings.unsuited),
    }


def _numbers(found: Found) -> dict[str, Any]:
    from deepledger.node.attacks.inversion import Reconstruction
    from deepledger.node.attacks.measures import Separation

    if isinstance(found, Reconstruction):
        numbers = {"decibel": found.nearest, "decibel_of_others": found.nearest_other}
    elif isinstance(found, Separation):
        numbers = {"auc": found.auc, "low": found.low, "high": found.high, "caught": found.caught}
    else:
        fit = found.fit
        guessed, true = (dict(zip(found.names, map(float, each), strict=True)) for each in (found.guessed, found.true))
        return {
            "found": found.found, "correlation": fit.correlation, "low": fit.low, "high": fit.high,
            "guessed": guessed, "true": true,
        }  # fmt: skip
    return {"found": found.found, **numbers}


def draw(findings: Findings, folder: Path) -> list[Path]:
    from deepledger.cli import pictures
    from deepledger.node.attacks.inversion import Reconstruction
    from deepledger.node.attacks.laboratory import Attack
    from deepledger.node.attacks.measures import Separation
    from deepledger.node.attacks.shares import Shares

    drawn: dict[str, str] = {}
    lines = {
        f"{name}, {sight}: {each.auc:.2f}": each.curve
        for name, found in findings.found.items()
        for sight, each in found.items()
        if isinstance(each, Separation)
    }
    if lines:
        drawn["membership"] = pictures.curves("Share of your records that are taken for members", lines)
    for sight, each in findings.found.get(Attack.SHARES, {}).items():
        if isinstance(each, Shares):
            rows = {"true": each.true, "guessed": each.guessed}
            drawn[f"shares-{sight}"] = pictures.bars(f"Shares of labels behind the {sight}", each.names, rows)
    seen = {
        f"{sight}: a record, and the guess that is nearest ({each.nearest:.1f} dB)": _scaled(each)
        for sight, each in findings.found.get(Attack.INVERSION, {}).items()
        if isinstance(each, Reconstruction)
    }
    if seen:
        drawn["inversion"] = pictures.images("What records look like", seen)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            path = folder / f"{name}.svg"
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)  # before anything is in it
            path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise StateError(f"cannot write pictures into {folder}: {error.strerror}; correct --to") from None
    return [folder / f"{name}.svg" for name in drawn]


def _scaled(found: Any) -> list[Any]:
    low, high = float(found.truth.min()), float(found.truth.max())
    return [((each - low) / ((high - low) or 1)).double().numpy() for each in (found.truth, found.guess)]
