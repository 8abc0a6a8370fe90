"""The laws of structured pruning, for every network of the zoo."""

import dataclasses
import fnmatch
import functools
import math
from typing import Any

import jax
import numpy as np

from jaxprune import graph, pruning
from jaxprune.pruning import Plan, PlanLayer
from jaxprune.replaying import replay

from ._entry import Case, double, draw

TOLERANCE = 1e-10
MOST_SETS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """An entry's case with its graph, random variables and random inputs."""

    case: Case
    graph: graph.Graph
    variables: Any
    inputs: tuple[Any, ...]


@functools.cache
def study(entry, approximate=False):
    case = entry.make()
    options = {'approximate': True} if approximate else {}
    found = graph.trace(case.apply, double(case.shapes), *double(case.inputs), **options)
    return Study(case, found, draw(case.shapes), draw(case.inputs, seed=1))


def prunable(found):
    return [group for group in found.groups if group.protected is None]


def random_counts(rng, found, least=1):
    """How many channels each group keeps; all of them lose one, where they have more than `least`."""
    return {
        group.name: int(rng.integers(min(least, group.channels - 1), group.channels)) if group.channels > 1 else 1
        for group in prunable(found)
    }


def random_plan(rng, found, counts):
    """Which channels each group keeps, of as many as `counts` says."""
    index = {layer.name: layer.index for layer in found.layers}
    layers = []
    for group in prunable(found):
        keep = np.sort(rng.choice(group.channels, counts[group.name], replace=False))
        layers.append(
            PlanLayer(min(index[name] for name in group.layers), group.name, group.channels, (*keep.tolist(),))
        )
    return Plan(tuple(layers)).on(found)


def kept(found, plan):
    """Kept channels by the index of the group."""
    return np.array([len(plan.keep.get(group.name, range(group.channels))) for group in found.groups])


class Compiled:
    """A jitted function that counts for how many sets of shapes it was compiled."""

    def __init__(self, function):
        self.count = 0
        self._function = function
        # What is compiled here runs for microseconds.
        self._run = jax.jit(self._counted, compiler_options={'xla_backend_optimization_level': '0'})

    def _counted(self, arrays):
        self.count += 1
        given = iter(arrays)
        leaves = [next(given) if _is_array(leaf) else leaf for leaf in self._leaves]
        return self._function(*jax.tree.unflatten(self._structure, leaves))

    def __call__(self, *arguments):
        """What modules hold beside arrays stays outside of what is compiled."""
        self._leaves, self._structure = jax.tree.flatten(arguments)
        found = jax.tree.leaves(self._run([leaf for leaf in self._leaves if _is_array(leaf)]))
        return np.concatenate([np.ravel(leaf) for leaf in found])


def _is_array(leaf):
    return hasattr(leaf, 'shape') and hasattr(leaf, 'dtype')


@functools.cache
def whole_program(entry):
    return Compiled(study(entry).case.apply)


def largest(array):
    assert np.isfinite(array).all()
    return np.abs(array).max()


def verified_counts(this, rng):
    """Random counts at which the function does not happen to branch: `if x.shape[-1] == 8`."""
    for _ in range(5):
        counts = random_counts(rng, this.graph)
        plan = random_plan(rng, this.graph, counts)
        removed = {layer.name: layer.removed for layer in plan.layers}
        if not graph.differences(this.graph, removed):
            return counts
    raise AssertionError('no counts are verified')


def test_replayed_is_masked(entry):
    """The original program at smaller widths computes what the masked one does, also where the source would not."""
    case, rng = entry.make(), np.random.default_rng(6)
    found = graph.trace(case.apply, double(case.shapes), *double(case.inputs), prove=False)
    assert len(prunable(found)) >= len(prunable(study(entry).graph))
    variables, inputs = draw(case.shapes), draw(case.inputs, seed=1)
    plan = random_plan(rng, found, random_counts(rng, found))
    masked = whole_program(entry)(pruning.mask(variables, plan), *inputs)
    replayed = Compiled(replay(case.apply, variables, plan))(pruning.slice_variables(variables, plan), *inputs)
    assert largest(masked - replayed) <= TOLERANCE * largest(masked)


def test_masked_is_sliced(entry, plans):
    """Law 1; plans of one set of kept counts share a program, and masks share that of the whole network."""
    this, rng = study(entry), np.random.default_rng(2)
    assert prunable(this.graph)
    run = whole_program(entry)
    whole = run(this.variables, *this.inputs)
    sets, read = min(MOST_SETS, max(2, plans // 5)), False
    for share in np.array_split(np.arange(plans), sets):
        counts, small_run = verified_counts(this, rng), None
        for _ in share:
            plan = random_plan(rng, this.graph, counts)
            masked = run(pruning.mask(this.variables, plan), *this.inputs)
            small = pruning.slice_variables(this.variables, plan)
            small_run = small_run or Compiled(this.case.resize(small))
            error = largest(masked - small_run(small, *this.inputs))
            assert error <= TOLERANCE * largest(masked), f'{error / largest(masked):.1e} for {plan}'
            read |= largest(masked - whole) > 1e-6 * largest(whole)
        assert small_run.count == 1
    assert run.count == 1
    assert read, 'the channels were not read at all'


def test_slices_compose(entry):
    """Law 2, and the sliced network is traced to the same groups with fewer channels."""
    this, rng = study(entry), np.random.default_rng(3)
    # Of one channel alone nothing says whether a convolution is depthwise.
    first = random_plan(rng, this.graph, random_counts(rng, this.graph, least=2))
    once = pruning.slice_variables(this.variables, first)
    smaller = graph.trace(this.case.resize(once), once, *this.inputs)
    assert [outline(group, group.channels) for group in smaller.groups] == [
        outline(group, len(first.keep.get(group.name, range(group.channels)))) for group in this.graph.groups
    ]
    second = random_plan(rng, smaller, random_counts(rng, smaller))
    twice = pruning.slice_variables(once, second)
    jax.tree.map(assert_same, twice, pruning.slice_variables(this.variables, first.then(second)))


def assert_same(first, second):
    if not _is_array(first):
        assert first is second or first == second
    elif jax.dtypes.issubdtype(first.dtype, jax.dtypes.prng_key):
        assert (jax.random.key_data(first) == jax.random.key_data(second)).all()
    else:
        np.testing.assert_array_equal(first, second)


def outline(group, channels):
    slots = [(slot.path, slot.axis, slot.role, slot.masked, slot.indices.shape[1]) for slot in group.slots]
    return group.name, group.layers, group.protected is None, channels, slots


def test_costs_are_counted(entry):
    """Law 3: what a plan predicts is what is counted after slicing."""
    this, rng = study(entry), np.random.default_rng(4)
    for _ in range(2):
        assert_costs(this, random_plan(rng, this.graph, verified_counts(this, rng)))


def assert_costs(this, plan):
    small = pruning.slice_variables(this.variables, plan)
    stored = small['params'] if isinstance(small, dict) and 'params' in small else small
    assert pruning.planned_parameters(this.variables, plan) == elements(stored)
    program = traced(this.case.resize(small), small, *this.inputs).jaxpr
    macs, activations = count(program)
    counts = kept(this.graph, plan)
    predicted = {name: float(cost(counts)) for name, cost in this.graph.costs.items()}
    assert predicted == {'parameters': elements(stored), 'macs': macs, 'activations': activations}


def traced(function, *arguments):
    leaves, structure = jax.tree.flatten(arguments)

    def run(arrays):
        given = iter(arrays)
        return function(*jax.tree.unflatten(structure, [next(given) if _is_array(leaf) else leaf for leaf in leaves]))

    return jax.make_jaxpr(run)([leaf for leaf in leaves if _is_array(leaf)])


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree) if hasattr(leaf, 'shape'))


def count(jaxpr):
    """Multiply-accumulates of convolutions and matrix products, and elements that they write."""
    total = np.zeros(2)
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        times = parameters['length'] if name == 'scan' else 1
        inner = [count(body) for value in parameters.values() for body in bodies(value)]
        # Of the branches of a condition one runs: the dearest counts.
        total += times * (np.max(inner, axis=0) if name == 'cond' else np.sum([*inner, np.zeros(2)], axis=0))
        if name in ('conv_general_dilated', 'dot_general'):
            written = math.prod(equation.outvars[0].aval.shape)
            total += (written * summands(equation), written)
    return total


def bodies(value):
    for each in value if isinstance(value, (tuple, list)) else (value,):
        if hasattr(each, 'eqns') or hasattr(each, 'jaxpr'):
            yield getattr(each, 'jaxpr', each)


def summands(equation):
    """How many products are summed for each element of the result."""
    left, right = (variable.aval.shape for variable in equation.invars)
    numbers = equation.params['dimension_numbers']
    if equation.primitive.name == 'dot_general':
        return math.prod(left[axis] for axis in numbers[0][0])
    # Zeros that a transposed convolution puts between its inputs do not count.
    return math.prod(right) / right[numbers.rhs_spec[0]] / math.prod(equation.params['lhs_dilation'])


def test_findings(entry):
    """Everything that can be pruned exactly is found, and the rest is protected for the reason that holds."""
    found, wrong = study(entry).graph, []
    for layer in found.layers:
        words = [word for pattern, word in entry.protected.items() if fnmatch.fnmatchcase(layer.name, pattern)]
        if layer.prunable if words else not layer.prunable:
            wrong.append(f'{layer.name} is{"" if layer.prunable else " not"} prunable: {layer.reason}')
        elif words and words[0] not in layer.reason:
            wrong.append(f'{layer.name} is protected for another reason than {words[0]}: {layer.reason}')
    idle = [pattern for pattern in entry.protected if not fnmatch.filter([each.name for each in found.layers], pattern)]
    assert not wrong and not idle
    assert len(prunable(found)) >= entry.prunable


def test_approximation_frees_more(approximate_entry):
    """Where norms across channels may change, more groups can be sliced; costs and composition hold for them too."""
    entry = approximate_entry
    exact, this, rng = study(entry).graph, study(entry, approximate=True), np.random.default_rng(5)
    assert all(group.approximate is None for group in exact.groups)
    freed = [group for group in prunable(this.graph) if group.approximate]
    assert freed and len(prunable(this.graph)) > len(prunable(exact))
    plan = random_plan(rng, this.graph, random_counts(rng, this.graph))
    assert_costs(this, plan)
    small = pruning.slice_variables(this.variables, plan)
    before = traced(this.case.apply, this.variables, *this.inputs)
    assert traced(this.case.resize(small), small, *this.inputs).out_avals == before.out_avals
