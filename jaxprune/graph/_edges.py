"""Edges, from who wrote what a kernel reads."""

import numpy as np
from jaxtyping import Int

from jaxprune.graph._record import Contact, Record
from jaxprune.graph._types import Edge
from jaxprune.graph._values import NONE, Ids, Sources


def find_edges(record: Record, owner: Ids, *, inner: bool) -> tuple[Edge, ...]:
    """All edges, sorted; each once, however many kernels of a layer read or write the same channels.

    Args:
      record: of the walk.
      owner: `[leaves]`, index of the layer or NONE.
      inner: whether to keep edges from a layer to itself.
    """
    found = [_readings(record, contact, source, owner) for contact in record.contacts for source in contact.sources]
    # A run of consecutive channels at consecutive places has one difference between the two.
    rows = np.unique(np.concatenate([*found, np.empty((0, 4), int)]), axis=0)
    if not len(rows):
        return ()
    ends = np.flatnonzero(np.any(np.diff(rows, axis=0) != [0, 0, 0, 1], axis=1)) + 1
    runs = [(rows[start], stop - start) for start, stop in zip([0, *ends], [*ends, len(rows)], strict=True)]
    edges = {Edge(int(row[0]), int(row[1]), int(row[3]), int(length)) for row, length in runs}
    return tuple(sorted(edge for edge in edges if inner or edge.producer != edge.consumer))


def _readings(record: Record, contact: Contact, source: Sources, owner: Ids) -> Int[np.ndarray, 'n 4']:
    """Rows of producer, consumer, place less channel, place."""
    consumers = _layers(record, contact.kernel, owner)
    writer, via = source
    # What the data met inside the reading layer itself is not where they come from.
    writer = np.where((via >= 0) & (_layers(record, via, owner) != consumers), via, writer)
    producers = _layers(record, writer, owner)
    rows = np.stack([producers, consumers, contact.places - record.leaves.place_of(writer), contact.places], axis=1)
    return rows[(producers >= 0) & (consumers >= 0)]


def _layers(record: Record, ids: Ids, owner: Ids) -> Ids:
    leaves = record.leaves.leaf_of(ids)
    return np.where(leaves >= 0, owner[leaves], NONE)
