"""Structured pruning of any JAX model: criteria, plans, selection, masks and slices; knows graph and variables only."""

from jaxprune.pruning._apply import (
    Resizable,
    mask,
    planned_parameters,
    slice_variables,
    widths,
)
from jaxprune.pruning._criteria import CRITERIA, Criterion, register, score
from jaxprune.pruning._evidence import Activations, Evidence
from jaxprune.pruning._files import kept_plan, rates_from_json, read_plan, write_rates
from jaxprune.pruning._gather import gather_activations, gather_gates
from jaxprune.pruning._layers import find_group, find_layer
from jaxprune.pruning._limits import planned_costs
from jaxprune.pruning._plan import Difference, Plan, PlanLayer, Row, read_json
from jaxprune.pruning._published import published_iterations
from jaxprune.pruning._rates import plan_rates, removed_filters, uniform_rates
from jaxprune.pruning._schedules import SCHEDULES, schedule
from jaxprune.pruning._select_channels import select_channels
from jaxprune.pruning._verify import verify
from jaxprune.pruning.select import RULES, Choice, select_layers

__all__ = [
    'CRITERIA',
    'RULES',
    'SCHEDULES',
    'Activations',
    'Choice',
    'Criterion',
    'Difference',
    'Evidence',
    'Plan',
    'PlanLayer',
    'Resizable',
    'Row',
    'find_group',
    'find_layer',
    'gather_activations',
    'gather_gates',
    'kept_plan',
    'mask',
    'plan_rates',
    'planned_costs',
    'planned_parameters',
    'published_iterations',
    'rates_from_json',
    'read_json',
    'read_plan',
    'register',
    'removed_filters',
    'schedule',
    'score',
    'select_channels',
    'select_layers',
    'slice_variables',
    'uniform_rates',
    'verify',
    'widths',
    'write_rates',
]
