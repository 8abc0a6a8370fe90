"""Criteria that look at how the loss of each example changes with the channels; `gather_gates` measures it.

The gate of a channel is a factor of value 1 at everything that reads the channel. A group has one gate per channel,
however many kernels produce and read it, and no reduction changes it.
"""

import numpy as np

from jaxprune.graph import Group
from jaxprune.pruning._criteria_registry import Rows, register
from jaxprune.pruning._evidence import Evidence


@register('taylor', needs='gates')
def taylor(group: Group, evidence: Evidence) -> Rows:
    """First-order change of the loss without the channel: mean over the examples of the gate's |derivative|.

    The derivative is the sum of weight times gradient over all weights that read the channel. It is averaged as an
    absolute value per example: the mean itself is near zero wherever training has converged.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference (2017), section
    2.2, "Taylor expansion"; Importance Estimation for Neural Network Pruning (2019), section 3, the gates.
    """
    return np.mean(np.abs(evidence.gates_of(group)), axis=0, keepdims=True)


@register('fisher', needs='gates')
def fisher(group: Group, evidence: Evidence) -> Rows:
    """Second-order change of the loss without the channel: half the mean over the examples of the squared derivative.

    The squared derivative of a log-likelihood stands for the Hessian's diagonal of Optimal Brain Damage (OBD).

    Source: Theis et al., Faster gaze prediction with dense networks and Fisher pruning (2018), section 2, for OBD
    LeCun et al., Optimal Brain Damage (1990).
    """
    return np.mean(np.square(evidence.gates_of(group)), axis=0, keepdims=True) / 2
