"""Updates in whichever format a job has: all coordinates, or of what is trained the few that move most."""

from __future__ import annotations

from functools import partial

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats.sparse import Int64s, SparseVector, largest, parse_sparse, write_sparse
from deepledger.protocol.formats.spec import JobSpec, UpdateFormat
from deepledger.protocol.formats.vectors import (
    GAMMA,
    NOT_FINITE,
    Encoded,
    Floats,
    UpdateVector,
    as_update,
    encode_update,
    sum_of_squares,
    update_dtype,
)

Update = UpdateVector | SparseVector
"""Shape (d,), unit 2^-U."""


def parse_update(data: Buffer, spec: JobSpec) -> Update:
    """View bytes as an update, without a copy. Raises `BadVector` where they are none."""
    form = spec.sparse
    return as_update(data, spec) if form is None else parse_sparse(data, form)


def bytes_of(update: Update) -> memoryview:
    """The canonical bytes of an update that is in memory, without a copy."""
    data = update.data[0 : update.format.bytes] if isinstance(update, SparseVector) else update
    return data.data.cast("B")


def moves(update: Update, spec: JobSpec) -> bool:
    """Whether it changes anything of what is trained."""
    return update.count > 0 if isinstance(update, SparseVector) else bool(update[: spec.model.trained].any())


def fits_norm(update: Update, spec: JobSpec) -> bool:
    """Whether the norm of what an update trains, and that of its statistics, are within the job's bound."""
    trained, limit = spec.model.trained, spec.update.square_limit
    if isinstance(update, SparseVector):
        squares, statistics = sum(map(sum_of_squares, update.values())), update.statistics(0, len(update) - trained)
    else:
        squares, statistics = sum_of_squares(update[:trained]), update[trained:]
    return squares <= limit and sum_of_squares(statistics) <= limit


def encode_change(
    change: Floats,
    residual: Floats,
    *,
    spec: JobSpec,
    seed: int,
    out: Floats | None = None,
    into: UpdateVector | None = None,
) -> Encoded[Update]:
    """As `encode_update` in the job's format, what is trained and statistics each by itself: each has the norm bound,
    so that a running variance of 100 does not cut down every weight. Noise that a job asks for comes after this.

    A statistic is measured anew in every round, so that what did not fit into an update is not carried to the next.
    """
    trained, form, update = spec.model.trained, spec.sparse, spec.trained_format
    out = np.empty_like(change) if out is None else out
    measured = change[trained:].copy()
    weights = change[:trained], residual[:trained], out[:trained]
    vector: Update
    encode_statistics = partial(
        encode_update, measured, np.zeros_like(measured), seed=(seed + trained * GAMMA) % 2**64, out=measured
    )
    if form is None:
        vector = np.empty(len(change), update_dtype(update)) if into is None else into
        encoded = encode_update(*weights[:2], update=update, seed=seed, out=weights[2], into=vector[:trained])
        statistics = encode_statistics(update=update, into=vector[trained:])
    else:
        places, encoded = _encode_largest(*weights, most=form.most, update=spec.update, seed=seed)
        statistics = encode_statistics(update=update.model_copy(update={"bits": 8 * form.dtype.itemsize}))
        sent = np.flatnonzero(encoded.vector)
        vector = write_sparse(places[sent], encoded.vector[sent], form, statistics=statistics.vector.data)
    out[trained:] = 0
    return Encoded(
        vector=vector,
        residual=out,
        clipped=encoded.clipped or statistics.clipped,
        saturated=encoded.saturated + statistics.saturated,
    )


def _encode_largest(
    change: Floats, residual: Floats, out: Floats, *, most: int, update: UpdateFormat, seed: int
) -> tuple[Int64s, Encoded[UpdateVector]]:
    """Places and values of what is largest of change and residual (Stich et al. 2018). The rest stays in `out`: it is
    part of the residual, whatever the norm bound cuts off what travels.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.add(change, residual, out=out)
    if not np.isfinite(wanted).all():
        raise BadVector(NOT_FINITE)
    places = largest(wanted, most)
    part = wanted[places]
    encoded = encode_update(part, np.zeros_like(part), update=update, seed=seed, out=part)
    wanted[places] = encoded.residual
    return places, encoded
