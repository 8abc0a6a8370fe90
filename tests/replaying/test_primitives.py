"""Every primitive that moves elements or keeps channels apart, against the function itself.

What is gone is NaN in the variables that the function is given: where its results are numbers, the replayed function
must give just these, in the same order.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune.errors import UserError
from jaxprune.graph import _registry as graph_rules
from jaxprune.graph import _trace  # noqa: F401
from jaxprune.replaying import _registry, replay_kept

from ._masks import blank, cut, draw, quick, some

KEPT = {('x',): {1: some(8, 1, 2, 4, 7)}, ('w',): {0: some(8, 1, 2, 4, 7)}}
SHAPES = {'x': jax.ShapeDtypeStruct((3, 8, 4), float), 'w': jax.ShapeDtypeStruct((8,), float)}
INDEX = np.array([[2], [0]])


def along(axis, size, numbers):
    """A constant that varies along one axis of three."""
    return np.expand_dims(np.asarray(numbers, float), [other for other in range(3) if other != axis])


CASES = {
    'add': lambda x, w: x + w[:, None],
    'constant table': lambda x, w: x * np.cos(np.arange(96.0)).reshape(3, 8, 4),
    'count of channels': lambda x, w: x * jnp.arange(8.0)[:, None],
    'clamp': lambda x, w: lax.clamp(-0.5, x, jnp.full(x.shape, 0.5)),
    'select': lambda x, w: jnp.where(jnp.arange(8)[:, None] > 3, x, 2 * x),
    'scalar predicate': lambda x, w: lax.select(w.shape[0] > 3, x, -x),
    'broadcast to a table': lambda x, w: x + jnp.broadcast_to(w[:, None], (8, 4)),
    'outer': lambda x, w: w[:, None] * jnp.ones((8, 5)),
    'transpose': lambda x, w: x.transpose(2, 1, 0),
    'new axis': lambda x, w: jnp.squeeze(x[:, None, :, :, None], (1, 4)) + w[:, None],
    'merge with a whole axis': lambda x, w: x.reshape(3, 32),
    'merge from the left': lambda x, w: x.reshape(24, 4),
    'merge all': lambda x, w: x.reshape(-1),
    'merge and split back': lambda x, w: x.reshape(-1).reshape(3, 8, 4) * w[:, None],
    'merge and split otherwise': lambda x, w: x.reshape(3, 32).reshape(3, 1, 8, 2, 2),
    'hard-coded slice': lambda x, w: x[:, 2:7] + w[2:7, None],
    'first two are gone or not': lambda x, w: x[:, :3],
    'every second': lambda x, w: x[:, ::2],
    'every third from two': lambda x, w: x[:, 2::3, 1:3],
    'all of a slice is gone': lambda x, w: jnp.concatenate([x[:, 5:7], x[:, :2]], 1),
    'split': lambda x, w: jnp.split(x, [2, 5], axis=1),
    'split in halves': lambda x, w: jnp.concatenate(jnp.split(x, 2, axis=1)[::-1], axis=1),
    'concatenate with a constant': lambda x, w: jnp.concatenate([x, jnp.ones((3, 2, 4)), x], axis=1),
    'concatenate along another axis': lambda x, w: jnp.concatenate([x, jnp.ones((3, 8, 4))], axis=2) * w[:, None],
    'stack': lambda x, w: jnp.stack([w, jnp.ones(8), -w], axis=1) * w[:, None],
    'stack first': lambda x, w: jnp.stack([w, 2 * w]),
    'take apart': lambda x, w: [x[i] + w[:, None] for i in range(3)],
    'tile': lambda x, w: jnp.tile(x, (1, 2, 3)),
    'repeat': lambda x, w: jnp.repeat(x, 2, axis=1),
    'roll': lambda x, w: jnp.roll(x, 3, axis=1),
    'flip': lambda x, w: x[:, ::-1] + w[::-1, None],
    'pad': lambda x, w: jnp.pad(x, ((0, 0), (1, 2), (0, 0))),
    'pad other axes': lambda x, w: lax.pad(x, 0.0, ((1, 0, 0), (0, 0, 0), (1, 1, 1))) + w[:, None],
    'pad, negative': lambda x, w: lax.pad(x, 0.0, ((0, 0, 0), (-2, -1, 0), (0, 0, 0))),
    'pad and cut': lambda x, w: lax.pad(x, 0.0, ((0, 0, 0), (2, -3, 0), (0, 0, 0))),
    'dynamic slice': lambda x, w: lax.dynamic_slice(x, (1, 0, 2), (2, 8, 1)),
    'dynamic update': lambda x, w: lax.dynamic_update_slice(jnp.zeros((5, 8, 4)), x, (1, 0, 0)) * w[:, None],
    'dynamic update, of a part': lambda x, w: lax.dynamic_update_slice(x, jnp.ones((1, 8, 2)), (1, 0, 0)) * w[:, None],
    'look up': lambda x, w: x[INDEX[:, 0]],
    'look up two': lambda x, w: x[INDEX, :, INDEX],
    'look up along an axis': lambda x, w: jnp.take_along_axis(x, np.argsort(np.ones((3, 8, 2)), 2), 2),
    'look up with fill': lambda x, w: x.at[INDEX[:, 0]].get(mode='fill', fill_value=0.0),
    'write': lambda x, w: x.at[1].set(w[:, None] * jnp.ones(4)),
    'write over zeros': lambda x, w: jnp.zeros((4, 8, 4)).at[INDEX[:, 0]].add(x[:2]) * w[:, None],
    'write a constant': lambda x, w: x.at[INDEX[:, 0], :, 1].mul(2.0),
    'sum': lambda x, w: x.sum(0),
    'norm': lambda x, w: x / jnp.linalg.norm(x, axis=(0, 2), keepdims=True),
    'largest': lambda x, w: x.max(2) + x.min((0, 2)),
    'reduce': lambda x, w: lax.reduce((x, 2 * x), (0.0, 0.0), lambda a, b: (a[0] + b[0], a[1] + b[1]), (2,)),
    'softmax beside': lambda x, w: jax.nn.softmax(x, axis=2),
    'pool': lambda x, w: lax.reduce_window(x, -jnp.inf, lax.max, (2, 1, 2), (1, 1, 2), 'SAME'),
    'window of anything': lambda x, w: lax.reduce_window(x, 1.0, lambda a, b: a * b, (2, 1, 2), (1, 1, 1), 'VALID'),
    'cumulative': lambda x, w: jnp.cumsum(x, 2) + lax.cumlogsumexp(x, 0),
    'sort': lambda x, w: jnp.sort(x, axis=2),
    'sort by key': lambda x, w: lax.sort((x, jnp.ones(x.shape)), dimension=0, num_keys=1)[0],
    'top': lambda x, w: lax.top_k(x, 2)[0],
    'fft': lambda x, w: jnp.abs(jnp.fft.fft(x, axis=2)),
    'product': lambda x, w: jnp.einsum('abc,dc->abd', x, jnp.ones((5, 4))),
    'product, batched': lambda x, w: jnp.einsum('abc,bcd->abd', x, jnp.ones((8, 4, 2))),
    'jit': jax.jit(lambda a, b: (a + b[:, None], b)),
    'remat': lambda x, w: jax.checkpoint(lambda a: jnp.sin(a) * w[:, None])(x),
    'branches': lambda x, w: lax.cond(jnp.ones(()) > 0, lambda a: a * 2, lambda a: jnp.ones((3, 8, 4)), x),
    'branches that pick': lambda x, w: lax.switch(
        INDEX[0, 0], [lambda a: a, lambda a: -a, lambda a: a + w[:, None]], x
    ),
    'loop': lambda x, w: lax.fori_loop(0, 3, lambda i, c: (c[0] + x * i, c[1] + c[0]), (jnp.ones(x.shape), x)),
    'loop over rows': lambda x, w: lax.scan(
        lambda c, a: (c * w[:, None] + a, c * w[:, None]), jnp.zeros((8, 4)), x, reverse=True
    ),
    'a carry that follows another': lambda x, w: lax.scan(
        lambda c, a: ((c[1], c[2], a), c[0] * a), (jnp.ones((8, 4)),) * 3, jnp.concatenate([x, x])
    ),
}


@pytest.fixture(scope='module')
def results():
    """Case -> results for variables with NaN where they are pruned, and of the replay; one program for all cases."""

    def apply(variables):
        return {case: function(variables['x'], variables['w']) for case, function in CASES.items()}

    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        whole = draw(SHAPES)
        expected = quick(apply)(blank(whole, KEPT, np.nan))
        return expected, quick(replay_kept(apply, SHAPES, KEPT))(cut(whole, KEPT))


@pytest.mark.parametrize('case', CASES)
def test_keeps_what_is_there(case, results):
    expected, actual = (jax.tree.leaves(each[case]) for each in results)
    assert any(small.size < whole.size for small, whole in zip(actual, expected, strict=True))
    for small, whole in zip(actual, map(np.asarray, expected), strict=True):
        np.testing.assert_allclose(np.ravel(small), whole[~np.isnan(whole)], rtol=1e-12, atol=1e-12)


WRONG = {
    'cumulative': (lambda x, w: jnp.cumsum(x, 1), 'cumsum'),
    'sort': (lambda x, w: jnp.sort(w), 'sort'),
    'count': (lambda x, w: jnp.argmax(w), 'argmax'),
    'unknown': (lambda x, w: jnp.linalg.cholesky(w[:, None] * w), 'cholesky'),
    'pick by an index': (lambda x, w: w[INDEX], 'gather'),
    'take apart': (lambda x, w: [each + 1 for each in w], 'unstack|squeeze'),
    'go through': (lambda x, w: lax.scan(lambda c, a: (c + a, c), 0.0, w), 'scan'),
    'no block': (lambda x, w: w.reshape(2, 4), 'reshape'),
    'other channels': (lambda x, w: w[:4] + w[4:], 'add'),
    'other channels in a product': (lambda x, w: jnp.einsum('abc,b->ac', x, w[::-1]), 'dot_general'),
    'slides over them': (lambda x, w: lax.reduce_window(w, 0.0, lax.add, (2,), (1,), 'SAME'), 'reduce_window'),
    'fft': (lambda x, w: jnp.fft.fft(w), 'fft'),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_cannot_be_replayed(case):
    function, primitive = WRONG[case]
    run = replay_kept(lambda variables: function(variables['x'], variables['w']), SHAPES, KEPT)
    with pytest.raises(UserError, match=rf'cannot be replayed at ({primitive})\S* \(test_primitives.py:\d+'):
        jax.eval_shape(run, cut(draw(SHAPES), KEPT))


def test_every_primitive_that_the_tracer_follows_is_replayed():
    missing = set(graph_rules.RULES) - set(_registry.RULES)
    assert missing == {'custom_lin', 'custom_vjp_call_jaxpr'}
