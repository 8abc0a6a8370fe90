"""The one Flax module that computes every spec, and what can be asked of it."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxprune import detection, trees
from jaxprune.errors import UserError
from jaxprune.models import layers
from jaxprune.models import spec as specs

Variables = dict[str, Any]


class Detector(nn.Module):
    """A detector built from its spec; images `[b, h, w, 3]` in 0..1, RGB."""

    spec: specs.ArchSpec

    @nn.compact
    def __call__(
        self, images: Float[Array, 'b h w 3'], *, train: bool = False, auxiliary: bool = False
    ) -> tuple[Array, ...]:
        """Raw predictions, level by level: `[b, h / stride, w / stride, anchors, 5 + classes]`.

        With `auxiliary`, those of the auxiliary heads come after those of the lead heads.
        """
        values = {specs.IMAGE: images}
        for node in self.spec.nodes:
            inputs = [values[name] for name in node.inputs]
            values[node.name] = self._compute(node, inputs, train)
        return tuple(values[name] for name in self.spec.outputs + (self.spec.auxiliary if auxiliary else ()))

    @nn.nowrap
    def at_widths_of(self, variables: Variables) -> 'Detector':
        """The detector of the spec whose layers are as wide as these variables; see `jaxprune.resize`.

        Raises:
          UserError: if they are not variables of this architecture.
        """
        leaves = trees.flatten(variables)
        widths = {
            path[1]: leaf.shape[-1] for path, leaf in leaves.items() if path[0] == 'params' and path[-1] == 'kernel'
        }
        resized = Detector(self.spec.resize(widths))
        lines = trees.diff(shapes(resized.spec), variables)
        if lines:
            raise UserError(f'variables are not those of a {self.spec.name}: {"; ".join(lines[:5])}')
        return resized

    def _compute(self, node: specs.Node, inputs: list[Array], train: bool) -> Array:
        match node:
            case specs.Conv():
                return layers.Conv(node, name=node.name)(inputs[0], train=train)
            case specs.RepConv():
                return layers.RepConv(node, name=node.name)(inputs[0], train=train)
            case specs.Head():
                level = (self.spec.outputs + self.spec.auxiliary).index(node.name) % len(self.spec.outputs)
                return layers.Head(node, len(self.spec.anchors[level]), name=node.name)(inputs[0])
        return layers.compute(node, inputs, train=train)


@functools.lru_cache(maxsize=16)
def shapes(spec: specs.ArchSpec) -> Variables:
    """The variables that a spec needs, as `jax.ShapeDtypeStruct`; nothing is computed."""
    return jax.eval_shape(Detector(spec).init, jax.random.key(0), smallest_image(spec))


def smallest_image(spec: specs.ArchSpec, batch: int = 1) -> jax.ShapeDtypeStruct:
    """The smallest image batch that a spec takes."""
    return jax.ShapeDtypeStruct((batch, spec.max_stride, spec.max_stride, 3), jnp.float32)


def check_size(spec: specs.ArchSpec, height: int, width: int) -> None:
    """Raises `UserError` where the stride does not divide the image size."""
    stride = spec.max_stride
    if height <= 0 or width <= 0 or height % stride or width % stride:
        nearest = ' x '.join(str(max(1, round(side / stride)) * stride) for side in (height, width))
        raise UserError(
            f'image size {height} x {width}: the stride {stride} of {spec.name} does not divide it; take {nearest}'
        )


@functools.partial(jax.jit, static_argnums=(0, 3))
def _heads(model: Detector, variables: Variables, images: Array, auxiliary: bool) -> tuple[Array, ...]:
    return forward(model, variables, images, auxiliary=auxiliary)


@functools.partial(jax.jit, static_argnums=0)
def _predict(model: Detector, variables: Variables, images: Array) -> Array:
    return decoded(model, variables, images)


def forward(
    model: Detector, variables: Variables, images: Float[Array, 'b h w 3'], *, auxiliary: bool = False
) -> tuple[Array, ...]:
    """`model.apply` in full fp32 precision (accelerators round what convolutions read by default), not jit."""
    with jax.default_matmul_precision('highest'):
        return cast(tuple[Array, ...], model.apply(variables, images, auxiliary=auxiliary))


def decoded(model: Detector, variables: Variables, images: Float[Array, 'b h w 3']) -> Float[Array, 'b n p']:
    """`predict` without the check and the jit, to build larger programs from."""
    spec = model.spec
    return detection.decode(forward(model, variables, images), jnp.asarray(spec.anchors), spec.strides)


def heads(
    model: Detector, variables: Variables, images: Float[Array, 'b h w 3'], *, auxiliary: bool = False
) -> tuple[Array, ...]:
    """Raw predictions before the sigmoid.

    Args:
      model: what `create` or `load` returned.
      variables: its variables.
      images: RGB in 0..1; height and width divisible by the largest stride.
      auxiliary: also those of the auxiliary heads, where the model has them (P6 models in the form `training`).

    Returns:
      Per level `[b, h / stride, w / stride, anchors, 5 + classes]`; lead heads, then auxiliary heads.

    Raises:
      UserError: for an image size that the stride does not divide.
    """
    _check_images(model.spec, images)
    return _heads(model, variables, jnp.asarray(images, jnp.float32), auxiliary)


def predict(model: Detector, variables: Variables, images: Float[Array, 'b h w 3']) -> Float[Array, 'b n p']:
    """Decoded predictions.

    Args:
      model: what `create` or `load` returned.
      variables: its variables.
      images: RGB in 0..1; height and width divisible by the largest stride.

    Returns:
      `[b, n, 5 + classes]`: centre x, centre y, width, height in pixels, objectness, class probabilities. N runs over
      levels, anchors, rows, columns, as in the PyTorch implementation.

    Raises:
      UserError: for an image size that the stride does not divide.
    """
    _check_images(model.spec, images)
    return _predict(model, variables, jnp.asarray(images, jnp.float32))


def _check_images(spec: specs.ArchSpec, images: Any) -> None:
    if np.ndim(images) != 4 or np.shape(images)[-1] != 3:
        raise UserError(f'images of shape {np.shape(images)}: expected [batch, height, width, 3]')
    check_size(spec, *np.shape(images)[1:3])
