"""Derivatives of the replayed function are those of the masked one, also where functions bring their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.replaying import replay_kept

from ._masks import blank, close, cut, draw, quick, some

KEPT = {('a',): {1: some(6, 0, 2, 3)}, ('s',): {0: some(6, 0, 2, 3)}, ('b',): {0: some(6, 0, 2, 3)}}
SHAPES = {name: jax.ShapeDtypeStruct(sizes, float) for name, sizes in (('a', (4, 6)), ('b', (6, 2)), ('s', (6,)))}
X = np.random.default_rng(5).normal(size=(3, 4))


@jax.custom_vjp
def sign(x):
    """Straight through: rounds forward, passes derivatives on as they are."""
    return jnp.sign(x)


sign.defvjp(lambda x: (jnp.sign(x), None), lambda _, up: (up,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def scaled(x, s, times):
    """Its forward function saves an argument, something new and a number; its derivatives are wrong on purpose."""
    return x * s * times


def scaled_forward(x, s, times):
    return x * s * times, (x, jnp.tanh(s), 3 * x.shape[-1])


def scaled_backward(times, saved, up):
    x, tanh, width = saved
    return width * up * tanh, times * (up * x).sum(0)


scaled.defvjp(scaled_forward, scaled_backward)


@jax.custom_jvp
def halved(x, s):
    """Its tangent is half of the true one, and depends on the width; none by `s`."""
    return x * s


@halved.defjvp
def halved_tangent(primals, tangents):
    (x, s), (dx, _) = primals, tangents
    return x * s, dx * s * 0.5 / x.shape[-1]


@functools.partial(jax.custom_jvp)
def symbolic(x, s):
    return jnp.sin(x) + s


symbolic.defjvp(
    lambda primals, tangents: (
        jnp.sin(primals[0]) + primals[1],
        sum((2 * each + jnp.zeros_like(primals[0]) for each in tangents if hasattr(each, '__array__')), 0.0),
    ),
    symbolic_zeros=True,
)


@jax.custom_vjp
def table(x, constants):
    """Multiplies with a constant that is whole where `x` is not."""
    return x * constants


table.defvjp(lambda x, c: (x * c, (x, c)), lambda saved, up: (up * saved[1], (up * saved[0]).sum(0)))


@jax.custom_vjp
def twice(x):
    return jnp.sin(x), x


twice.defvjp(lambda x: ((jnp.sin(x), x), x), lambda x, ups: (ups[0] * x + ups[1],))


@jax.custom_vjp
def counted(x):
    return jnp.sin(x), x


def counted_backward(x, ups):
    """Zeros stay symbols, of the original shape."""
    zeros = [up for up in ups if isinstance(up, jax.custom_derivatives.SymbolicZero)]
    return (sum(up * (x + zeros[0].shape[-1]) for up in ups if up is not zeros[0]),)


counted.defvjp(lambda x: ((jnp.sin(x.value), x.value), x.value), counted_backward, symbolic_zeros=True)

MIDDLES = {
    'relu at zero': lambda h, s: (jax.nn.relu(h - jax.lax.stop_gradient(h)) + 1) * s,
    'of two results one, told so': lambda h, s: counted(h)[0] * s,
    'of two results one': lambda h, s: twice(h)[0] * s,
    'relu6, silu, gelu': lambda h, s: jax.nn.relu6(h) + jax.nn.silu(h * s) + jax.nn.gelu(h),
    'softplus and logsumexp': lambda h, s: jax.nn.softplus(h) * jax.nn.sigmoid(s) + jnp.logaddexp(h, s),
    'straight through': lambda h, s: sign(h) * s,
    'own backward': lambda h, s: scaled(h, s, 5.0),
    'own backward, mapped': lambda h, s: jax.vmap(lambda row: sign(row) * s)(h),
    'own tangent': halved,
    'own tangent, no zeros made': lambda h, s: symbolic(h, s) * symbolic(h, jnp.ones(6)),
    'whole constant': lambda h, s: table(h, jnp.arange(6.0)) * s,
    'whole constant from outside': lambda h, s: table(h, jnp.sum(X) * jnp.arange(6.0)) * s,
    'remat': jax.checkpoint(lambda h, s: jnp.sin(jnp.cos(h) * s) * jax.nn.relu(h)),
    'remat by policy': jax.checkpoint(
        lambda h, s: jnp.sin(h * s), policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False
    ),
    'scan': lambda h, s: jax.lax.scan(lambda c, row: ((sign(c) + row) * s, c * row), jnp.zeros(6), h)[1],
    'branches': lambda h, s: jax.lax.cond(h.shape[1] > 5, lambda: h * s, lambda: jax.nn.relu(h)),
    'derivative inside': lambda h, s: jax.vmap(jax.grad(lambda row: (jnp.tanh(row) * s).sum()))(h),
    'stop': lambda h, s: jax.lax.stop_gradient(h) * s + h,
}


def model(middle, variables, x):
    return MIDDLES[middle](x @ variables['a'], variables['s']) @ variables['b']


def loss(apply, variables, x):
    return (apply(variables, x) * jnp.arange(1, 3)).sum()


@pytest.fixture(scope='module')
def derivatives():
    """Per middle: value and derivatives of the masked function, cut, and those of the replayed one."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        variables = draw(SHAPES)
        masked, small = blank(variables, {('b',): KEPT[('b',)]}), cut(variables, KEPT)

        def both(masked, small):
            found = {}
            for middle in MIDDLES:
                apply = functools.partial(model, middle)
                run = replay_kept(apply, SHAPES, KEPT)
                found[middle] = [
                    jax.value_and_grad(functools.partial(loss, each))(own, X)
                    for each, own in ((apply, masked), (run, small))
                ]
            return found

        return quick(both)(masked, small)


@pytest.mark.parametrize('middle', MIDDLES)
def test_derivatives_are_those_of_the_mask(middle, derivatives):
    (value, gradients), (small_value, small_gradients) = derivatives[middle]
    close(small_value, value)
    close(small_gradients, cut(jax.tree.map(np.asarray, gradients), KEPT))
    assert all(np.abs(leaf).max() > 0 for name, leaf in small_gradients.items() if name == 'b')


def test_own_derivatives_are_not_the_true_ones():
    """What the cases above compare would be equal for wrong reasons if the user's derivatives were lost in both."""
    up = jax.grad(lambda h: sign(h).sum())(jnp.ones(6))
    np.testing.assert_array_equal(up, np.ones(6))
    np.testing.assert_array_equal(jax.grad(lambda h: halved(h, jnp.ones(6)).sum())(jnp.ones(6)), np.full(6, 0.5 / 6))


def test_relu_at_zero_passes_nothing_on():
    run = replay_kept(lambda v, x: jax.nn.relu(x @ v['a'] - np.ones(6) * 4) @ v['b'], SHAPES, KEPT)
    variables = cut({'a': np.ones((4, 6)), 'b': np.ones((6, 2)), 's': np.ones(6)}, KEPT)
    assert not np.any(jax.grad(lambda v: run(v, np.ones((3, 4))).sum())(variables)['a'])


@pytest.mark.parametrize('middle', ['remat', 'remat by policy'])
def test_remat_stays(middle):
    run = replay_kept(functools.partial(model, middle), SHAPES, KEPT)
    program = jax.make_jaxpr(jax.grad(functools.partial(loss, run)))(cut(draw(SHAPES), KEPT), X)
    (equation,) = [each for each in program.jaxpr.eqns if 'policy' in each.params]
    assert equation.params['prevent_cse'] == (middle == 'remat')
    assert (equation.params['policy'] is None) == (middle == 'remat')


def test_second_derivatives_and_directions():
    apply = functools.partial(model, 'relu6, silu, gelu')
    run, variables = replay_kept(apply, SHAPES, KEPT), draw(SHAPES)
    masked, small, tangent = blank(variables, {('b',): KEPT[('b',)]}), cut(variables, KEPT), draw(SHAPES, 1)

    def turned(function, variables, tangent):
        return quick(lambda *pair: jax.jvp(jax.grad(functools.partial(loss, function)), *((v, X) for v in pair))[1])(
            variables, tangent
        )

    large, little = turned(apply, masked, blank(tangent, KEPT)), turned(run, small, cut(tangent, KEPT))
    close(little, cut(jax.tree.map(np.asarray, large), KEPT))


def test_per_example_derivatives():
    run = replay_kept(functools.partial(model, 'own backward'), SHAPES, KEPT)
    small = cut(draw(SHAPES), KEPT)
    slope = jax.grad(functools.partial(loss, run))
    mapped = quick(jax.vmap(slope, in_axes=(None, 0)))(small, X[:, None])
    single = quick(lambda v: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(slope(v, row[None]) for row in X)))(
        small
    )
    close(mapped, single)


def test_no_derivative_that_the_function_lacks():
    @jax.custom_vjp
    def none(x):
        return x

    none.defvjp(lambda x: (x, None), lambda _, up: (None,))
    run = replay_kept(lambda v, x: none(x @ v['a']) @ v['b'], SHAPES, KEPT)
    gradients = jax.grad(lambda v: run(v, X).sum())(cut(draw(SHAPES), KEPT))
    assert not np.any(gradients['a']) and np.any(gradients['b'])


def test_wrong_shapes_are_named():
    with pytest.raises(UserError, match=r'a is \(4, 6\), not \(4, 3\)'):
        replay_kept(functools.partial(model, 'stop'), SHAPES, KEPT)(draw(SHAPES), X)
