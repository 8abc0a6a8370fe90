"""The command line offers what the library has; it is written down twice so that `--help` need not wait for JAX."""

from jaxprune import models, pruning
from jaxprune.cli import _arguments


def test_choices_are_those_of_the_library():
    # Gradients and activations are for the library's users to gather.
    known = [name for name, criterion in pruning.CRITERIA.items() if criterion.needs == 'variables']
    assert sorted(_arguments.CRITERIA) == sorted(known)
    assert _arguments.FORMS == models.FORMS
