"""Criteria that look at the values of the channels, as their first reader meets them.

`gather_activations` measures them. A group has one set of values, so no reduction changes these scores.
"""

from jaxprune.errors import UserError
from jaxprune.graph import Group
from jaxprune.pruning._criteria_registry import Rows, register
from jaxprune.pruning._evidence import Evidence


@register('activation-mean', needs='activations')
def activation_mean(group: Group, evidence: Evidence) -> Rows:
    """Mean absolute value of the channel.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference (2017), section
    2.2, "Activation".
    """
    return evidence.activations_of(group).mean[None]


@register('apoz', needs='activations')
def apoz(group: Group, evidence: Evidence) -> Rows:
    """Share of the channel's values that are not zero: 1 less the average percentage of zeros (APoZ).

    It tells channels apart only behind an activation that is zero for some inputs, such as ReLU.

    Source: Hu et al., Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures
    (2016), the definition of APoZ.
    """
    return 1 - evidence.activations_of(group).zeros[None]


@register('hrank', needs='activations')
def hrank(group: Group, evidence: Evidence) -> Rows:
    """Mean rank of the channel's feature maps.

    Source: Lin et al., HRank: Filter Pruning using High-Rank Feature Map (2020), section 3.

    Raises:
      UserError: where the ranks were not gathered, or the group has no two-dimensional maps.
    """
    rank = evidence.activations_of(group).rank
    if rank is None:
        raise UserError(
            f'group {group.name!r} has no ranks of feature maps: gather them with gather_activations(..., ranks=True), '
            'and use another criterion for layers without maps [batch, height, width, channels]'
        )
    return rank[None]
