"""Requests that cannot be right are one clear line, whatever is wrong with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.pruning import Plan, PlanLayer, score

WIDTHS = {'a': (6, 8), 'b': (8, 10), 'o': (10, 3)}
WIDER = {'a': (6, 12), 'b': (12, 14), 'o': (14, 3)}
X = jax.ShapeDtypeStruct((2, 6), np.float32)


def apply(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p['a']) @ p['b']) @ p['o']


def draw(shapes):
    return {name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


VARIABLES, WIDE = draw(WIDTHS), draw(WIDER)
OTHERS = {'u': VARIABLES['a'], 'v': VARIABLES['o']}
GRAPH = jaxprune.trace(apply, VARIABLES, X)
PLAN = jaxprune.select_channels(GRAPH, VARIABLES, keep=0.5)


def select(graph=GRAPH, variables=VARIABLES, **request):
    return jaxprune.select_channels(graph, variables, **({'keep': 0.5} | request))


# what is done: a word of the message
WRONG = [
    (lambda: select(keep={None: 0.5}), 'None is no layer'),
    (lambda: select(keep={0.5: 0.5}), '0.5 is no layer'),
    (lambda: select(round_to=None), 'round_to is None'),
    (lambda: select(round_to=2.5), 'round_to is 2.5'),
    (lambda: select(min_channels='8'), "min_channels is '8'"),
    (lambda: select(ignore=None), 'ignore is None'),
    (lambda: select(ignore=5), 'ignore is 5'),
    (lambda: select(keep=None, budget=0.5), 'budget is 0.5: give a mapping'),
    (lambda: select(keep=None, budget={'ms': 1}, tables={'ms': 3}), "table 'ms' cannot be read"),
    (lambda: select(keep=None, budget={'ms': 1}, tables={'ms': {'a': {'x': 1.0}}}), "table 'ms' cannot be read"),
    (lambda: select(criterion='random', seed='a'), 'seed a cannot be used'),
    (lambda: select(evidence=3), 'evidence is a int'),
    (lambda: select(within=3), 'within is a int'),
    (lambda: select(graph=VARIABLES), 'the graph is a dict'),
    (lambda: select(variables=jax.eval_shape(lambda: VARIABLES)), 'a is a shape; give arrays'),
    # Variables of another model.
    (lambda: select(variables=WIDE), 'a has the shape (6, 12)'),
    (lambda: jaxprune.mask(WIDE, PLAN), 'have 12 channels on axis 0, the model needs 8'),
    (lambda: jaxprune.slice(WIDE, PLAN), 'the model needs 8'),
    (lambda: jaxprune.mask(OTHERS, PLAN), 'they hold u, the model a'),
    (lambda: jaxprune.slice(OTHERS, PLAN), 'they hold u, the model a'),
    (lambda: jaxprune.slice(VARIABLES['a'], PLAN), 'they hold a single leaf'),
    (lambda: jaxprune.replay(apply, VARIABLES, PLAN)(OTHERS, np.ones((2, 6))), 'a is missing'),
    (lambda: jaxprune.replay(apply, WIDE, PLAN), 'a has the shape (6, 12)'),
    # What is no plan.
    (lambda: jaxprune.mask(VARIABLES, None), 'this is a NoneType'),
    (lambda: jaxprune.slice(VARIABLES, PLAN.to_json()), 'this is a dict'),
    (lambda: jaxprune.replay(apply, VARIABLES, None), 'not bound'),
    (lambda: PlanLayer(0, 'a', 8, ('1',)), "kept channel '1' is no whole number"),
    (lambda: PlanLayer(0, 'a', 8, (1.5,)), 'kept channel 1.5 is no whole number'),
    (lambda: jaxprune.trace(3, VARIABLES, X), '3 cannot be called'),
]


@pytest.mark.parametrize(('act', 'message'), WRONG, ids=[message for _, message in WRONG])
def test_mistakes_are_told(act, message):
    with pytest.raises(jaxprune.UserError) as caught:
        act()
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_plans_of_numpy_can_be_written(tmp_path):
    plan = Plan((PlanLayer(0, 'a', 8, (*np.arange(3),)),)).on(GRAPH)
    plan.write(tmp_path / 'plan.json')
    assert Plan.read(tmp_path / 'plan.json') == plan


def test_complex_weights_are_ranked_by_both_parts():
    shapes = {'a': jax.ShapeDtypeStruct((6, 8), complex), 'o': jax.ShapeDtypeStruct((8, 3), complex)}
    with jax.enable_x64(True):
        graph = jaxprune.trace(
            lambda p, x: jnp.real(x @ p['a'] @ p['o']), shapes, jax.ShapeDtypeStruct((2, 6), complex)
        )
    rng = np.random.default_rng(0)
    p = {name: rng.normal(size=leaf.shape) + 1j * rng.normal(size=leaf.shape) for name, leaf in shapes.items()}
    np.testing.assert_allclose(score('l2', graph, graph.groups[0], p), np.linalg.norm(p['a'], axis=0), rtol=1e-6)
