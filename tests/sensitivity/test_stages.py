"""Functions cut into stages, and equations in other forms, against the functions as JAX evaluates them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune.sensitivity._forms import evaluate
from jaxprune.sensitivity._stages import Compiler

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def conv(numbers, **options):
    given = {'window_strides': (1, 1), 'padding': ((0, 0), (0, 0)), **options}
    return lambda x, w: lax.conv_general_dilated(x, w, dimension_numbers=numbers, **given)


LAST, FIRST = ('NHWC', 'HWIO', 'NHWC'), ('NCHW', 'OIHW', 'NCHW')
CONVOLUTIONS = {
    'pointwise': (conv(LAST), (2, 5, 6, 4), (1, 1, 4, 3), 'dot_general'),
    'other kernel layout': (conv(('NHWC', 'OIHW', 'NHWC')), (2, 5, 6, 4), (3, 4, 1, 1), 'dot_general'),
    'channels first': (conv(FIRST), (2, 4, 5, 6), (3, 4, 1, 1), None),
    'strides': (conv(LAST, window_strides=(2, 1)), (2, 5, 6, 4), (1, 1, 4, 3), None),
    'padding': (conv(LAST, padding=((1, 0), (0, 0))), (2, 5, 6, 4), (1, 1, 4, 3), None),
    'transposed': (conv(LAST, lhs_dilation=(2, 2)), (2, 5, 6, 4), (1, 1, 4, 3), None),
    'groups': (conv(LAST, feature_group_count=2), (2, 5, 6, 4), (1, 1, 2, 6), None),
    'batch groups': (conv(LAST, batch_group_count=2), (2, 5, 6, 4), (1, 1, 4, 6), None),
    'three by three': (conv(LAST), (2, 5, 6, 4), (3, 3, 4, 3), None),
    'transposing': (conv(('NHWC', 'HWIO', 'NCHW')), (2, 5, 6, 4), (1, 1, 4, 3), None),
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_convolutions(name):
    function, *shapes, form = CONVOLUTIONS[name]
    operands = [normal(*shape) for shape in shapes]
    (equation,) = jax.make_jaxpr(function)(*operands).eqns
    (found,) = evaluate(equation, operands)
    np.testing.assert_allclose(found, function(*operands), rtol=1e-5, atol=1e-5)
    text = str(jax.make_jaxpr(lambda *given: evaluate(equation, given))(*operands))
    assert (form or 'conv_general_dilated') in text


def pool(window, strides, padding, **options):
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding, **options)


POOLS = {
    'spatial pyramid': pool((1, 13, 13, 1), (1, 1, 1, 1), 'SAME'),
    'strides': pool((1, 3, 2, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (0, 1), (0, 0))),
    'dilation': pool((1, 2, 3, 1), (1, 1, 1, 1), 'VALID', window_dilation=(1, 2, 2, 1)),
    'base dilation': pool((1, 2, 3, 1), (1, 1, 1, 1), 'VALID', base_dilation=(1, 2, 1, 1)),
    'strides alone': pool((1, 1, 1, 1), (1, 2, 3, 1), 'VALID'),
    'channels': pool((2, 1, 1, 3), (1, 1, 1, 2), 'SAME'),
}


@pytest.mark.parametrize('name', POOLS)
def test_pools_are_the_same_bits(name):
    values = normal(3, 14, 15, 4)
    (equation,) = jax.make_jaxpr(POOLS[name])(values).eqns
    assert equation.primitive.name == 'reduce_window_max'
    (found,) = evaluate(equation, [values])
    np.testing.assert_array_equal(found, POOLS[name](values))


def network(variables, inputs):
    """Two branches, a weight that is transformed first, a loop, and results of every kind."""
    first, second = inputs['a'], inputs['b']
    weight = variables['scale'] * variables['w'] / jnp.linalg.norm(variables['w'])
    left = jax.nn.relu(first @ weight)
    right = jax.checkpoint(lambda x: jnp.tanh(x @ variables['v']))(second)
    both = jnp.concatenate([left, right], axis=1)
    both, _ = jax.lax.scan(lambda carry, row: (carry * row, None), both, variables['steps'])
    return {'out': both @ variables['last'], 'side': left.sum(axis=1), 'weights': weight, 'input': first, 'one': 1.0}


def test_stages_compute_what_the_function_computes():
    shapes = {'scale': (1, 1), 'w': (3, 4), 'v': (5, 4), 'steps': (2, 1, 8), 'last': (8, 2)}
    variables = {name: normal(*shape) for name, shape in shapes.items()}
    inputs = {'a': normal(6, 3), 'b': normal(6, 5)}
    compiler = Compiler()
    stages = compiler.stages(network, variables, inputs)
    whole = stages.run(variables, inputs)
    expected = network(variables, inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stages.result(whole), expected)
    numbers = {}
    for index, name in enumerate(sorted(variables)):
        changed = {**variables, name: variables[name] * 1.5}
        numbers[name] = stages.chain.reached([index])
        kept = stages.run(variables, inputs, keep=stages.chain.needed(numbers[name]))
        found = stages.result(stages.run_again(kept, {index: changed[name]}, numbers[name]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, network(changed, inputs))
    assert len(numbers['last']) == 1
    assert set(numbers['last']) < set(numbers['steps']) < set(numbers['v'])
    assert len(numbers['v']) < len(stages.programs)
    compiled = len(compiler)
    compiler.stages(network, variables, inputs)
    assert len(compiler) == compiled, 'the same programs are compiled once'


def test_a_function_that_reads_no_variables():
    stages = Compiler().stages(lambda variables, inputs: inputs * 2, {'w': normal(2)}, normal(3))
    assert stages.chain.reached([0]) == ()
    np.testing.assert_array_equal(stages.result(stages.run({'w': normal(2)}, jnp.ones(3))), 2 * np.ones(3))
