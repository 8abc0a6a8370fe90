"""Other styles: names with slashes, lists of tuples under vmap, patches by reshape, gather, functions of one's own."""

import jax
import jax.numpy as jnp
from jax import lax

from ._entry import register
from ._plain import affine, array, plain


def linear(p, x):
    return x @ p['w'] + p['b']


def conv2d(p, x):
    return lax.conv_general_dilated(x, p['w'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')) + p['b']


def haiku_like(variables, x):
    """Parameters and state are flat dictionaries of module names."""
    params, state = variables['params'], variables['state']

    def conv(name, x):
        return lax.conv_general_dilated(
            x, params[name]['w'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )

    def batch_norm(name, x):
        inverse = params[name]['scale'] * lax.rsqrt(state[f'{name}/~/moving']['var'] + 1e-5)
        return (x - state[f'{name}/~/moving']['mean']) * inverse + params[name]['offset']

    x = jax.nn.relu(batch_norm('net/~/initial_bn', conv('net/~/initial_conv', x)))
    for i in range(2):
        block = f'net/~/block_{i}/~'
        y = jax.nn.relu(batch_norm(f'{block}/batchnorm', conv(f'{block}/conv_0', x)))
        x = x + conv(f'{block}/conv_1', y)
    return jnp.mean(x, (1, 2)) @ params['net/~/logits']['w'] + params['net/~/logits']['b']


@register('plain_haiku_like', prunable=3, protected={'net/~/logits': 'output'})
def _():
    def norms(names):
        params = {
            name: {'scale': array(1, 1, 1, width), 'offset': array(1, 1, 1, width)} for name, width in names.items()
        }
        moving = {name: {kind: array(1, 1, 1, width) for kind in ('mean', 'var')} for name, width in names.items()}
        return params, {f'{name}/~/moving': each for name, each in moving.items()}

    params, state = norms({'net/~/initial_bn': 4, 'net/~/block_0/~/batchnorm': 5, 'net/~/block_1/~/batchnorm': 6})
    convs = {'net/~/initial_conv': (3, 4)}
    for i, width in enumerate((5, 6)):
        convs |= {f'net/~/block_{i}/~/conv_0': (4, width), f'net/~/block_{i}/~/conv_1': (width, 4)}
    params |= {name: {'w': array(3, 3, *sizes)} for name, sizes in convs.items()} | {'net/~/logits': affine(4, 2)}
    return plain(haiku_like, {'params': params, 'state': state}, (2, 8, 8, 3))


def mnist_mlp(params, image):
    """A list of tuples `(w, b)`, written for one image, from JAX's tutorials."""
    activations = jnp.ravel(image)
    for w, b in params[:-1]:
        activations = jax.nn.relu(jnp.dot(w, activations) + b)
    w, b = params[-1]
    logits = jnp.dot(w, activations) + b
    return logits - jax.nn.logsumexp(logits)


@register('plain_mnist_mlp', prunable=2, protected={'2': 'output'})
def _():
    params = [(array(out, inputs), array(out)) for inputs, out in ((16, 8), (8, 6), (6, 4))]
    return plain(jax.vmap(mnist_mlp, in_axes=(None, 0)), params, (2, 4, 4))


def res_mlp(p, image):
    """Patches by reshape and transpose; layers mix tokens or channels; scales in place of norms."""
    b, h, w, c = image.shape
    x = image.reshape(b, h // 4, 4, w // 4, 4, c)
    x = jnp.einsum('bhpwqc->bhwpqc', x).reshape(b, (h // 4) * (w // 4), 4 * 4 * c)
    x = linear(p['patches'], x)
    for block in p['blocks']:
        y = (block['scale1'] * x + block['shift1']).swapaxes(1, 2)
        x = x + block['gain1'] * linear(block['tokens'], y).swapaxes(1, 2)
        y = jax.nn.gelu(linear(block['up'], block['scale2'] * x + block['shift2']))
        x = x + block['gain2'] * linear(block['down'], y)
    return linear(p['head'], x.mean(1))


@register('plain_res_mlp', prunable=3, protected={'blocks/*/tokens': '', 'head': 'output'})
def _():
    def block(hidden):
        own = {f'{name}{i}': array(8) for name in ('scale', 'shift', 'gain') for i in (1, 2)}
        return own | {'tokens': affine(4, 4), 'up': affine(8, hidden), 'down': affine(hidden, 8)}

    shapes = {'patches': affine(48, 8), 'blocks': [block(12), block(10)], 'head': affine(8, 3)}
    return plain(res_mlp, shapes, (2, 8, 8, 3))


@jax.custom_jvp
def smooth(x):
    return x * jnp.arctan(x)


smooth.defjvps(lambda tangent, _, x: tangent * (jnp.arctan(x) + x / (1 + x**2)))


@jax.custom_vjp
def binarise(x):
    """Signs, with a straight-through gradient."""
    return jnp.sign(x)


binarise.defvjp(lambda x: (jnp.sign(x), x), lambda x, g: (jnp.where(jnp.abs(x) < 1, g, 0.0),))


def own_functions(p, x):
    """Activations with derivatives of their own, a block that is computed again for its gradient, inner `jit`."""
    x = smooth(conv2d(p['a'], x))

    @jax.checkpoint
    def block(p, x):
        return x + binarise(conv2d(p, x))

    x = jax.jit(block)(p['b'], x)
    x = jax.nn.relu6(jax.jit(conv2d)(p['c'], x))
    return lax.stop_gradient(x.sum((1, 2))) @ p['d']['w']


@register('plain_own_functions', prunable=2, protected={'d': 'output'})
def _():
    shapes = {'a': affine(3, 3, 3, 5), 'b': affine(3, 3, 5, 5), 'c': affine(1, 1, 5, 4), 'd': {'w': array(4, 2)}}
    return plain(own_functions, shapes, (2, 6, 6, 3))


def deformable(p, x):
    """What is read where follows from a layer's two outputs; the channels that are read stay apart."""
    x = jax.nn.relu(conv2d(p['features'], x))
    offsets = jnp.tanh(conv2d(p['offsets'], x))
    b, h, w, _ = x.shape
    rows = jnp.arange(h)[None, :, None] + offsets[..., 0]
    columns = jnp.arange(w)[None, None, :] + offsets[..., 1]
    top, left = jnp.clip(jnp.floor(rows), 0, h - 2), jnp.clip(jnp.floor(columns), 0, w - 2)
    batch, i, j = jnp.arange(b)[:, None, None], top.astype(int), left.astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = x[batch, i, j] * (1 - right) + x[batch, i, j + 1] * right
    lower = x[batch, i + 1, j] * (1 - right) + x[batch, i + 1, j + 1] * right
    return conv2d(p['read'], jax.nn.relu(conv2d(p['mix'], upper * (1 - down) + lower * down)))


@register('plain_deformable', prunable=2, protected={'offsets': '', 'read': 'output'})
def _():
    shapes = {
        'features': affine(3, 3, 3, 6),
        'offsets': affine(3, 3, 6, 2),
        'mix': affine(1, 1, 6, 5),
        'read': affine(1, 1, 5, 2),
    }
    return plain(deformable, shapes, (2, 6, 6, 3))


def maxout(p, x):
    """Of every unit's three pieces the largest counts; then the largest of all channels beside them."""
    x = linear(p['a'], x)
    x = x.reshape(x.shape[0], -1, 3).max(axis=-1)
    x = linear(p['b'], x)
    x = jnp.concatenate([x, jnp.max(x, axis=-1, keepdims=True)], axis=-1)
    return linear(p['c'], x)


@register('plain_maxout', prunable=1, protected={'b': 'reduce_max', 'c': 'output'})
def _():
    return plain(maxout, {'a': affine(5, 12), 'b': affine(4, 6), 'c': affine(7, 2)}, (2, 5))


def fourier(p, x):
    """A Fourier layer: complex kernels, kept as two real ones, for the lowest frequencies."""
    x = x @ p['lift']
    frequencies = jnp.fft.rfft(x, axis=1)
    modes = p['spectral']['real'].shape[0]
    kernel = lax.complex(p['spectral']['real'], p['spectral']['imaginary'])
    low = jnp.einsum('bmc,mcd->bmd', frequencies[:, :modes], kernel)
    low = jnp.pad(low, ((0, 0), (0, frequencies.shape[1] - modes), (0, 0)))
    x = jax.nn.gelu(jnp.fft.irfft(low, n=x.shape[1], axis=1) + x @ p['local'])
    return jax.nn.gelu(x @ p['project']) @ p['out']


@register('plain_fourier', prunable=1, protected={'out': 'output'})
def _():
    spectral = {'real': array(3, 6, 5), 'imaginary': array(3, 6, 5)}
    shapes = {
        'lift': array(2, 6),
        'spectral': spectral,
        'local': array(6, 5),
        'project': array(5, 7),
        'out': array(7, 1),
    }
    return plain(fourier, shapes, (2, 8, 2))
