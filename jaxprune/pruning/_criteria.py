"""Criteria: how important each channel of a group is. Low scores go first.

Importing this module registers every criterion; the files beside it hold them by what they look at.
"""

from jaxprune.pruning import _criteria_activations, _criteria_gradients, _criteria_weights  # noqa: F401
from jaxprune.pruning._criteria_registry import (
    CRITERIA,
    REDUCTIONS,
    Criterion,
    Reduction,
    Registered,
    Scores,
    gathered,
    register,
    score,
    scores_from,
)

__all__ = [
    'CRITERIA',
    'REDUCTIONS',
    'Criterion',
    'Reduction',
    'Registered',
    'Scores',
    'gathered',
    'register',
    'score',
    'scores_from',
]
