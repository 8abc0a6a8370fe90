"""Law 1 for every channel of every group: zeroing where it is read computes what the network without it computes."""

import jax
import numpy as np
import pytest

from jaxprune import graph


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def flat(tree):
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nested(leaves):
    tree = {}
    for (name, key), leaf in leaves.items():
        tree.setdefault(name, {})[key] = leaf
    return tree


def cut(parameters, removed):
    """`removed`: pairs of a group and the channels of it that go."""
    gone = {}
    for group, channels in removed:
        for slot in group.slots:
            gone.setdefault((slot.path, slot.axis), []).append(slot.indices[channels].ravel())
    leaves = flat(parameters)
    for (path, axis), places in gone.items():
        leaves[path] = np.delete(leaves[path], np.concatenate(places), axis)
    return nested(leaves)


def blank(parameters, removed):
    leaves = {path: leaf.copy() for path, leaf in flat(parameters).items()}
    for group, channels in removed:
        for slot in group.slots:
            if slot.masked:
                np.moveaxis(leaves[slot.path], slot.axis, 0)[slot.indices[channels].ravel()] = 0
    return nested(leaves)


def traced(net, parameters):
    return graph.trace(net.apply, parameters, jax.ShapeDtypeStruct(net.image, np.float64))


def prunable(found):
    return [group for group in found.groups if not group.protected]


def test_masked_is_sliced(net):
    parameters, x = net.parameters(), net.input()
    run = jax.jit(net.apply)
    whole = np.asarray(run(parameters, x))
    groups = prunable(traced(net, parameters))
    assert groups
    for group in groups:
        for channel in range(group.channels):
            removed = [(group, [channel])]
            masked = np.asarray(run(blank(parameters, removed), x))
            sliced = np.asarray(run(cut(parameters, removed), x))
            np.testing.assert_allclose(masked, sliced, rtol=0, atol=1e-12 * np.abs(whole).max())
            assert np.abs(masked - whole).max() > 1e-6 * np.abs(whole).max(), 'the channel was not read at all'


def test_random_plans(net):
    parameters, x = net.parameters(), net.input()
    run, rng = jax.jit(net.apply), np.random.default_rng(2)
    groups = prunable(traced(net, parameters))
    counts = [rng.integers(1, group.channels) for group in groups]
    for _ in range(3):
        removed = [
            (group, rng.choice(group.channels, count, replace=False))
            for group, count in zip(groups, counts, strict=True)
        ]
        masked = np.asarray(run(blank(parameters, removed), x))
        sliced = np.asarray(run(cut(parameters, removed), x))
        np.testing.assert_allclose(masked, sliced, rtol=0, atol=1e-12 * np.abs(masked).max())


def test_cut_network_has_the_same_groups(net):
    parameters = net.parameters()
    before = traced(net, parameters)
    after = traced(net, cut(parameters, [(group, [0]) for group in prunable(before)]))
    assert [group.layers for group in after.groups] == [group.layers for group in before.groups]
    assert [group.channels for group in after.groups] == [
        group.channels - (not group.protected) for group in before.groups
    ]
    assert [[slot.path for slot in group.slots] for group in after.groups] == [
        [slot.path for slot in group.slots] for group in before.groups
    ]


def test_edges(net):
    if net.edges is None:
        return
    found = traced(net, net.parameters())
    names = [layer.name for layer in found.layers]
    edges = [(names[edge.producer], names[edge.consumer], edge.offset, edge.channels) for edge in found.edges]
    assert set(edges) == net.edges
    assert len(edges) == len(net.edges)


def test_only_outputs_are_protected(net):
    found = traced(net, net.parameters())
    read = {name for name, *_ in net.edges or ()} | set(net.free)
    assert {layer.name for layer in found.layers if layer.prunable} == read
    assert all('output of the model' in layer.reason for layer in found.layers if layer.name not in read)
