"""The preview: exact where the loss is linear, else the derivative that finite differences show; and its order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import pruning, sensitivity
from jaxprune.errors import UserError
from jaxprune.graph import trace
from jaxprune.sensitivity._preview import order, preview

SIZES = {'one': (3, 6), 'two': (6, 8), 'three': (8, 5)}
RATES = (0.25, 0.5)


def apply(activation):
    def forward(variables, x):
        for name in ('one', 'two'):
            x = activation(x @ variables[name]['kernel'])
        return x @ variables['three']['kernel']

    return forward


def setting(activation):
    """Function, fp64 variables, graph, candidates and examples; every example has a sign of its own."""
    rng = np.random.default_rng(0)
    variables = {name: {'kernel': rng.normal(size=size)} for name, size in SIZES.items()}
    batch = {'x': rng.normal(size=(7, 3)), 'weight': rng.normal(size=(7, 5))}
    forward = apply(activation)
    graph = trace(forward, variables, batch['x'])
    return forward, variables, graph, sensitivity.candidates(graph, variables, RATES), batch


def changes(loss, forward, variables, batch, plan, share):
    """Of every example's loss when what the plan removes is scaled by 1 - share."""

    def scaled(old, new):
        return old + share * (new - old)

    after = jax.tree.map(scaled, variables, pruning.mask(variables, plan))
    losses = [np.array([loss(forward(tree, x[None]), w[None]) for x, w in zip(*batch.values(), strict=True)])
        for tree in (variables, after)]  # fmt: skip
    return losses[1] - losses[0]


def single(loss, forward, variables, batch, plan, channel, share):
    """`changes`, per share, for one channel of the plan's only layer."""
    layer = plan.layers[0]
    keep = tuple(place for place in range(layer.channels) if place != channel)
    one = pruning.Plan((dataclasses.replace(layer, keep=keep),), plan.graph)
    return changes(loss, forward, variables, batch, one, share) / share


@pytest.mark.parametrize(
    ('activation', 'loss', 'share'),
    [
        (lambda x: x, lambda y, w: jnp.sum(y * w), 1.0),
        (jnp.tanh, lambda y, w: jnp.sum(jnp.square(y - w)), 1e-6),
    ],
    ids=['linear', 'finite difference'],
)
def test_it_is_the_change_of_the_loss(activation, loss, share):
    with jax.enable_x64(True):
        forward, variables, graph, candidates, batch = setting(activation)
        evidence = pruning.gather_gates(graph, lambda v, b: loss(forward(v, b['x']), b['weight']), variables, [batch])
        rows = preview(candidates, evidence)
        assert [(row['layer'], row['rate']) for row in rows] == [(each.layer, each.rate) for each in candidates]
        assert len(rows) == 5 and rows[0]['taylor'] == rows[0]['fisher'] == 0
        differ = []
        for row, each in zip(rows[1:], candidates[1:], strict=True):
            expected = changes(loss, forward, variables, batch, each.plan, share) / share
            assert row['taylor'] == pytest.approx(np.mean(np.abs(expected)), rel=1e-5)
            alone = [
                single(loss, forward, variables, batch, each.plan, gone, share) for gone in each.plan.layers[0].removed
            ]
            assert row['fisher'] == pytest.approx(np.mean(np.square(alone)) * len(alone) / 2, rel=1e-5)
            differ.append(expected.min() < 0 < expected.max())
            assert row['parameters'] == each.cost['parameters'] and row['name'] == each.cost['name']
        assert any(differ), 'examples that agree cannot tell the mean of absolute values from that of the values'


def cell(layer, parameters, macs):
    costs = {'name': f'layer {layer}', 'parameters': 100 - parameters, 'macs': 100.0 - macs}
    return sensitivity.Candidate(layer=layer, rate=0.5, plan=pruning.Plan(), cost=costs)


def test_what_removes_most_for_little_comes_first():
    cells = [cell(4, 0, 0), cell(1, 40, 2), cell(None, 0, 0), cell(0, 30, 1), cell(2, 1, 50), cell(3, 4, 4)]
    costs = {None: 0.0, 0: 0.0, 1: 6.0, 2: 0.5, 3: 0.1, 4: 5.4}  # of mean 2
    rows = [{'layer': each.layer, 'rate': 0.5, 'fisher': costs[each.layer]} for each in cells]
    # Parameters over 1 + cost / 2: 30, 10, 0.8, 3.8, 0 of the layers 0 to 4; multiply-accumulates: 1, 0.5, 40, 3.8, 0.
    # So 0 and 2 have the first place somewhere, 1 and 3 the second, the cheaper one first.
    assert [each.layer for each in order(cells, rows[::-1])] == [None, 0, 2, 3, 1, 4]


def test_no_cost_anywhere_leaves_what_is_removed():
    cells = [cell(None, 0, 0), cell(0, 5, 5), cell(1, 50, 50)]
    rows = [{'layer': each.layer, 'rate': 0.5, 'fisher': 0.0} for each in cells]
    assert [each.layer for each in order(cells, rows)] == [None, 1, 0]


def test_evidence_without_gates_or_of_another_model():
    _, variables, graph, candidates, _ = setting(jnp.tanh)
    with pytest.raises(UserError, match='gather it with gather_gates'):
        preview(candidates, pruning.Evidence(graph, variables))
    with pytest.raises(UserError, match='the evidence is of another model'):
        preview(candidates, pruning.Evidence(graph, variables, gates={'one': np.ones((2, 5)), 'two': np.ones((2, 5))}))
