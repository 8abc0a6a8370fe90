"""SGD and Adam over three groups of parameters, as the PyTorch YOLOv7 groups them."""

from typing import Any

import jax
import optax

from jaxprune.training._schedule import Rates
from jaxprune.training.recipe import Recipe

KERNELS, SCALES, BIASES = 'kernels', 'scales', 'biases'
_EPSILON = 1e-8


def groups(params: Any) -> Any:
    """The group of every parameter: kernels decay, scales (and YOLOR's implicits) do not, biases warm up alone.

    Args:
      params: nested dictionaries of arrays, as Flax names them.

    Returns:
      The same tree of the words `kernels`, `scales` and `biases`.
    """
    return jax.tree_util.tree_map_with_path(_group, params)


def _group(path: tuple[Any, ...], leaf: Any) -> str:
    if path[-1].key == 'bias':
        return BIASES
    return KERNELS if leaf.ndim > 1 else SCALES


def optimizer(recipe: Recipe, rates: Rates, weight_decay: float, params: Any) -> optax.GradientTransformation:
    """The update rule of one step; its state has the same structure at every step.

    Weight decay is added to the gradient (not decoupled, as in PyTorch's SGD and Adam).

    Args:
      recipe: which rule, and Adam's beta1.
      rates: of this step; may be traced.
      weight_decay: already scaled to the batch.
      params: for the groups; may be abstract.
    """
    labels = groups(params)
    kernels = jax.tree.map(lambda label: label == KERNELS, labels)
    rule = (
        optax.scale_by_adam(b1=recipe.momentum, b2=0.999, eps=_EPSILON)
        if recipe.optimizer == 'adam'
        else optax.trace(decay=rates.momentum, nesterov=True)
    )
    by_group = {KERNELS: rates.weights, SCALES: rates.weights, BIASES: rates.biases}
    scale = optax.partition({label: optax.scale(-rate) for label, rate in by_group.items()}, labels)
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=kernels), rule, scale)
