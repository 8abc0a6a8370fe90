"""Edges, from who wrote what a kernel reads."""

from collections.abc import Iterator

import numpy as np

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
    found = {edge for contact in record.contacts for edge in _edges_of(record, contact, owner)}
    return tuple(sorted(edge for edge in found if inner or edge.producer != edge.consumer))


def _edges_of(record: Record, contact: Contact, owner: Ids) -> Iterator[Edge]:
    consumers = _layers(record, contact.kernel, owner)
    for source in contact.sources:
        writers = _resolve(record, source, consumers, owner)
        producers, channels = _layers(record, writers, owner), record.leaves.place_of(writers)
        places = np.flatnonzero((producers >= 0) & (consumers >= 0))
        steps = np.stack([each[places] for each in (producers, consumers, contact.places, channels)])
        whole = np.diff(places) == 1
        joined = whole & np.all(np.diff(steps, axis=1) == np.array([0, 0, 1, 1])[:, None], axis=0)
        for run in np.split(np.arange(len(places)), np.flatnonzero(~joined) + 1):
            if len(run):
                producer, consumer, offset, _ = (int(each) for each in steps[:, run[0]])
                yield Edge(producer, consumer, offset, len(run))


def _resolve(record: Record, source: Sources, consumers: Ids, owner: Ids) -> Ids:
    """What the reader counts as its input: not what the data met inside the reading layer itself."""
    writer, via = source
    return np.where((via >= 0) & (_layers(record, via, owner) != consumers), via, writer)


def _layers(record: Record, ids: Ids, owner: Ids) -> Ids:
    leaves = record.leaves.leaf_of(ids)
    return np.where(leaves >= 0, owner[leaves], NONE)
