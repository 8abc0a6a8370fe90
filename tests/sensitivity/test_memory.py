"""How much memory a batch takes, against a count by hand, and the same table within a limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune import sensitivity
from jaxprune.errors import UserError
from jaxprune.sensitivity._chain import cut
from jaxprune.sensitivity._engine import Engine
from jaxprune.sensitivity._memory import split, value_bytes

ROWS = 8
FLOAT = 4
WIDTHS = {'a': (10, 100), 'b': (100, 30), 'c': (30, 20), 'd': (20, 5)}


def network(variables, x):
    """Four matrix products in a row."""
    for name in WIDTHS:
        x = jnp.tanh(x @ variables[name])
    return x


@pytest.fixture(scope='module')
def chain():
    shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in WIDTHS.items()}
    return cut(network, shapes, jax.ShapeDtypeStruct((ROWS, 10), np.float32))


def test_bytes(chain):
    assert [chain.reached([leaf]) for leaf in range(4)] == [(0, 1, 2, 3), (1, 2, 3), (2, 3), (3,)]
    unit, inputs = ROWS * FLOAT, 10
    # Nothing is kept: the largest are two neighbours, 100 and 30 wide.
    assert value_bytes(chain, [()], at_once=1) == unit * (inputs + 130)
    # The second product computed again: its input (100) and the result (5) are kept; 30 + 20 are there at a time.
    assert value_bytes(chain, [(1, 2, 3)], at_once=1) == unit * (inputs + max(100 + 30 + 20, 105 + 50))
    # And the last one as well, two at a time: 20 is kept, too.
    assert value_bytes(chain, [(1, 2, 3), (3,)], at_once=2) == unit * (inputs + 125 + 2 * 50)


def test_split(chain):
    again = [(1, 2, 3), (3,)]
    whole = value_bytes(chain, again, at_once=1)
    options = {'rows': ROWS, 'devices': 1, 'at_once': 1}
    assert split(chain, again, whole, **options) == (ROWS, 2)
    assert split(chain, again, whole - 1, **options) == (ROWS // 2, 2)
    assert split(chain, again, whole // 8, **options) == (1, 2)
    alone = max(value_bytes(chain, [numbers], at_once=1) for numbers in again)
    assert alone < whole
    assert split(chain, again, -(-alone // 8), **options) == (1, 1)
    assert split(chain, again, whole // 8, **{**options, 'devices': 4}) == (4, 2)
    with pytest.raises(UserError, match='raise the limit'):
        split(chain, again, alone // 8 - 1, **options)


class _Split(Engine):
    """Notes what is computed together."""

    seen: list[tuple[int, int]]

    def _compute(self, candidates, inputs, labels):
        self.seen.append((len(inputs), len(candidates)))
        return super()._compute(candidates, inputs, labels)


@pytest.mark.parametrize(
    ('limit', 'parts'),
    [(None, [(ROWS, 5)]), (6800, [(4, 5)] * 2), (1600, [(1, 3), (1, 2)] * ROWS)],
)
def test_parts_give_the_same_statistics(limit, parts):
    rng = np.random.default_rng(0)
    variables = {name: rng.normal(size=shape).astype(np.float32) for name, shape in WIDTHS.items()}
    x = rng.normal(size=(ROWS, 10)).astype(np.float32)
    metric = sensitivity.Mean('sum', lambda outputs, labels, unpruned: outputs.sum(axis=1) + labels)
    engine = _Split(sensitivity.Model(network, variables), metric, memory=limit)
    engine.seen = []
    batch = sensitivity.Batch(x, np.arange(ROWS, dtype=np.float32), np.ones(ROWS, bool))
    changed = [{}, *({index: variables[name] * 0.5} for index, name in enumerate(WIDTHS))]
    found = [engine.compute(changed, part) for part in engine.parts(changed, batch)]
    assert engine.seen == parts
    for number, leaves in enumerate(changed):
        masked = {name: leaves.get(index, variables[name]) for index, name in enumerate(WIDTHS)}
        expected = np.asarray(network(masked, x)).sum(axis=1) + np.arange(ROWS)
        np.testing.assert_allclose(
            np.concatenate([part[number]['sum'] for part in found]), expected, rtol=1e-5, atol=1e-5
        )


def test_a_limit_that_cannot_be_met(tmp_path):
    variables = {name: np.ones(shape, np.float32) for name, shape in WIDTHS.items()}
    x = np.ones((ROWS, 10), np.float32)
    graph = jaxprune.trace(network, variables, x)
    metric = sensitivity.Mean('distance', sensitivity.distance)
    batches = [sensitivity.Batch(x, np.zeros(ROWS), np.ones(ROWS, bool))]
    with pytest.raises(UserError, match='memory'):
        jaxprune.scan(network, variables, batches, tmp_path / 'scan', graph=graph, metric=metric, memory=1000)
