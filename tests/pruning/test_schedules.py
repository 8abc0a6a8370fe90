"""How shares fall over several iterations."""

import itertools

import pytest

from jaxprune.errors import UserError
from jaxprune.pruning import SCHEDULES, schedule


@pytest.mark.parametrize(
    ('shape', 'expected'),
    [
        ('one-shot', [0.2, 0.2, 0.2, 0.2]),
        ('linear', [0.8, 0.6, 0.4, 0.2]),
        # Zhu & Gupta, equation 1: sparsity 0.8 - 0.8 (1 - t / 4)^3
        ('cubic', [1 - (0.8 - 0.8 * left**3) for left in (0.75, 0.5, 0.25, 0)]),
        ('geometric', [0.2**0.25, 0.2**0.5, 0.2**0.75, 0.2]),
        (lambda progress, end: 1 - progress**2 * (1 - end), [0.95, 0.8, 0.55, 0.2]),
    ],
)
def test_shares(shape, expected):
    assert schedule(0.2, 4, shape=shape) == pytest.approx(expected)
    several = schedule({'a': 0.2, 'b': 1.0}, 4, shape=shape)
    assert [shares['a'] for shares in several] == pytest.approx(expected)
    assert [shares['b'] for shares in several] == pytest.approx([1, 1, 1, 1])


@pytest.mark.parametrize('shape', SCHEDULES)
def test_the_last_step_is_what_was_asked_for(shape):
    for keep in (0.1, 0.3, 0.7, 1.0):
        shares = schedule(keep, 7, shape=shape)
        assert len(shares) == 7 and shares[-1] == keep
        assert all(later <= earlier <= 1 for earlier, later in itertools.pairwise(shares))
    assert schedule({'macs': 0.5}, 1, shape=shape) == [{'macs': 0.5}]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((0, 3), 'keep 0 is out of range'),
        (({'macs': 1000}, 3), 'keep 1000 is out of range'),
        ((0.5, 0), 'steps is 0'),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UserError, match=message):
        schedule(*arguments)
    with pytest.raises(UserError, match="schedule 'square' does not exist: give one of one-shot, linear"):
        schedule(0.5, 3, shape='square')
