"""Laws 1 to 3 on the architectures themselves, in every form, for random plans over all layers."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from jaxprune import models, trees
from jaxprune.pruning import (
    CRITERIA,
    kept_plan,
    mask,
    plan_rates,
    planned_parameters,
    slice_variables,
    uniform_rates,
    widths,
)
from weights_convert import convert_checkpoint

BLOCKS = pathlib.Path(__file__).parents[1] / 'golden' / 'convert' / 'blocks.pt'
CASES = [
    (name, form)
    for name in models.architectures()
    for form in models.FORMS
    if form != 'deploy' or name in ('yolov7', 'yolov7-tiny')  # elsewhere as `training`, without what is special there
]
RANKED_BY_WEIGHTS = sorted(name for name, criterion in CRITERIA.items() if criterion.needs == 'variables')


def random_plan(graph, seed):
    """Every group that can be pruned keeps a random part, some of them all or one channel."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in (group for group in graph.groups if group.protected is None):
        count = rng.choice([1, group.channels, rng.integers(1, group.channels + 1)], p=[0.05, 0.15, 0.8])
        kept[group.name] = rng.permutation(group.channels)[:count].tolist()
    return kept_plan(graph, kept)


def compiled(spec, variables, images):
    """`variables -> all heads in one vector`; compiling takes most of the time, as every plan has shapes of its own."""
    options = {'xla_backend_optimization_level': 0}
    apply = functools.partial(models.Detector(spec).apply, auxiliary=True)
    program = jax.jit(apply).lower(variables, images).compile(compiler_options=options)
    return lambda variables: np.concatenate([np.ravel(head) for head in program(variables, images)])


def assert_close(actual, expected):
    assert np.abs(actual - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(5).uniform(size=(1, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope='module', params=CASES, ids='-'.join)
def network(request, random_model):
    """Spec, variables, graph; all tests of one network run one after the other, so that it is traced once."""
    spec, variables = random_model(*request.param, seed=1)
    return spec, variables, models.connectivity(spec)


def test_masked_is_sliced(network, images):
    spec, variables, graph = network
    plan = random_plan(graph, seed=CASES.index((spec.name, spec.form)))
    smaller = slice_variables(variables, plan)
    sliced = compiled(spec.resize(widths(plan)), smaller, images)(smaller)
    forward = compiled(spec, variables, images)
    assert_close(forward(mask(variables, plan)), sliced)
    assert np.abs(forward(variables) - sliced).max() > 0.01 * np.abs(sliced).max()


@pytest.mark.parametrize('seed', range(3))
def test_masked_is_sliced_in_other_blocks(images, seed):
    """A converted network of bottlenecks, ghost and depthwise convolutions, whose added layers share groups."""
    converted = convert_checkpoint(BLOCKS)
    spec, variables = converted.spec, converted.variables
    graph = models.connectivity(spec)
    plan = random_plan(graph, seed)
    smaller, small = slice_variables(variables, plan), spec.resize(widths(plan))
    assert any(
        group.channels < layer.channels
        for group in graph.groups
        for layer in graph.layers
        if layer.name in group.layers
    )
    assert any(getattr(node, 'groups', 1) > 1 for node in spec.layers)
    sliced = compiled(small, smaller, images)(smaller)
    assert_close(compiled(spec, variables, images)(mask(variables, plan)), sliced)


def test_slices_compose(network):
    spec, variables, graph = network
    first = random_plan(graph, seed=10)
    smaller = spec.resize(widths(first))
    small_graph = models.connectivity(smaller)
    assert [layer.name for layer in small_graph.layers] == [layer.name for layer in graph.layers]
    second = random_plan(small_graph, seed=11)
    twice = slice_variables(slice_variables(variables, first), second)
    assert smaller.resize(widths(second)) == spec.resize(widths(first.then(second)))
    once = slice_variables(variables, first.then(second))
    jax.tree.map(np.testing.assert_array_equal, twice, once)


def test_prediction_is_the_count_after_slicing(network):
    spec, variables, graph = network
    plan = random_plan(graph, seed=12)
    sliced, smaller = slice_variables(variables, plan), spec.resize(widths(plan))
    assert trees.diff(models.shapes(smaller), sliced) == []
    counted = models.count(models.Detector(smaller), sliced, 64)
    assert planned_parameters(variables, plan) == counted.parameters
    fused, folded = models.to_form(models.Detector(smaller), sliced, 'fused')
    implicits = sum(leaf.size for path, leaf in trees.flatten(sliced).items() if path[-1].startswith('implicit'))
    left = {layer.name for layer in fused.spec.layers}  # without auxiliary heads, and what only they read
    dropped = [layer for layer in counted.layers if layer.name not in left]
    assert bool(dropped) is bool(smaller.auxiliary)
    folded_parameters = sum(leaf.size for leaf in jax.tree.leaves(folded['params']))
    published = counted.parameters_published - implicits - sum(layer.parameters_published for layer in dropped)
    assert folded_parameters == published
    gflops = counted.gflops - sum(layer.gflops for layer in dropped)
    assert models.spec_cost(fused.spec, 64).gflops == pytest.approx(gflops, rel=1e-12)


def test_every_criterion_plans_every_form(network):
    spec, variables, graph = network
    rates = uniform_rates(graph, 0.5)
    groups = [group for group in graph.groups if group.protected is None]
    for criterion in RANKED_BY_WEIGHTS if spec.name == 'yolov7-tiny' else ('l2', 'bn'):
        if spec.form == 'fused' and criterion.startswith('bn'):
            with pytest.raises(ValueError, match='no batch normalisation'):
                plan_rates(graph, variables, rates, criterion=criterion)
            continue
        plan = plan_rates(graph, variables, rates, criterion=criterion)
        assert [(row.name, row.removed) for row in plan.rows()] == [
            (each.layers[0], each.channels // 2) for each in groups
        ], criterion


def test_iterating_ranks_as_one_plan_would(random_model):
    """Ranking masked variables of a RepConv model and ranking sliced ones keep the same filters."""
    spec, variables = random_model('yolov7', 'training', seed=6)
    graph = models.connectivity(spec)
    rates = uniform_rates(graph, 0.5)
    early, late = ({index: rate for index, rate in rates.items() if (index < 60) is part} for part in (True, False))
    first = plan_rates(graph, variables, early)
    smaller = models.connectivity(spec.resize(widths(first)))
    second = plan_rates(smaller, slice_variables(variables, first), late)
    assert first.then(second) == plan_rates(graph, variables, rates)
