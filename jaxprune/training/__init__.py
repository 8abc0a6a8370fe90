"""Training: recipe, schedule, step and loop, for any model and loss that come as functions."""

from jaxprune.training._loop import Fit, fit
from jaxprune.training._objective import detection_objective
from jaxprune.training._optimizer import groups
from jaxprune.training._schedule import Rates, Schedule
from jaxprune.training._step import TrainState, make_step
from jaxprune.training.recipe import Recipe, read_recipe

__all__ = [
    'Fit',
    'Rates',
    'Recipe',
    'Schedule',
    'TrainState',
    'detection_objective',
    'fit',
    'groups',
    'make_step',
    'read_recipe',
]
