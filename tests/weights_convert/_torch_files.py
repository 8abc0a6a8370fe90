"""Reads `.pt` files with Python's own `pickle`, and classes that only record what PyTorch would make of them.

For files that PyTorch wrote and files that are written here; never for files of unknown origin.
"""

import io
import pickle
import types
import zipfile

import numpy as np

DTYPES = {
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    'BFloat16Storage': np.uint16,
    'LongStorage': np.int64,
    'DoubleStorage': np.float64,
}


class Instance:
    """An object of any class, with its state."""

    def __new__(cls, *arguments):
        self = super().__new__(cls)
        self.arguments = arguments
        return self

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.state = state

    def fuseforward(self):
        """Fused modules have this one in place of `forward`."""


class Tensor:
    """What a tensor is, and its elements."""

    def __init__(self, storage, offset, size, stride, requires_grad, hooks, *_):
        dtype, content = storage
        steps = tuple(step * dtype().itemsize for step in stride)
        array = np.ndarray(size, dtype, content, offset * dtype().itemsize, steps)
        bfloat16 = dtype == np.uint16
        self.array = (array.astype(np.uint32) << 16).view(np.float32) if bfloat16 else array.copy()
        self.requires_grad, self.hooks = requires_grad, hooks


def load(path):
    """The file's value, each tensor a `Tensor`, each object of a class an `Instance` of a class of that name."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        contents = {name.partition('/')[2]: archive.read(name) for name in archive.namelist()}
    return _Unpickler(io.BytesIO(contents['data.pkl']), contents).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, contents):
        super().__init__(file)
        self.contents, self.classes = contents, {}

    def find_class(self, module, name):
        if module.split('.')[0] in ('collections', 'builtins', '__builtin__', '_codecs', 'numpy'):
            return super().find_class(module, name)
        if name == '_rebuild_tensor_v2':
            return Tensor
        if name == '_rebuild_parameter':
            return lambda tensor, requires_grad, hooks: ('parameter', tensor, requires_grad, hooks)
        if module == 'torch':
            return name
        return self.classes.setdefault((module, name), type(name, (Instance,), {'__module__': module}))

    def persistent_load(self, reference):
        kind, storage, key, place, size = reference
        dtype, content = DTYPES[storage], self.contents[f'data/{key}']
        assert (kind, place, len(content)) == ('storage', 'cpu', size * dtype().itemsize)
        return dtype, content


def tensors(module, prefix=''):
    """Name and `Tensor` of all parameters and buffers, in the order of PyTorch's `state_dict`."""
    for own in ('_parameters', '_buffers'):
        for name, entry in module.state[own].items():
            if entry is not None:
                yield prefix + name, entry[1] if isinstance(entry, tuple) else entry
    for name, child in module.state['_modules'].items():
        if child is not None:
            yield from tensors(child, f'{prefix}{name}.')


def modules(module, prefix=''):
    """Name and `Instance` of a module and all below it."""
    yield prefix, module
    for name, child in module.state['_modules'].items():
        if child is not None:
            yield from modules(child, f'{prefix}.{name}' if prefix else name)


def differences(one, other, path=''):
    """Paths at which two values differ; tensors count as equal where their values are, whatever the number format."""
    if isinstance(one, Instance):
        one, other = ((type(each).__module__, type(each).__name__, each.arguments, vars(each)) for each in (one, other))
    if type(one) is not type(other):
        return [path]
    if isinstance(one, Tensor):
        same = np.array_equal(one.array, other.array) and one.requires_grad == other.requires_grad
        return [] if same else [path]
    if isinstance(one, dict):
        if list(one) != list(other):
            return [path]
        return [line for key in one for line in differences(one[key], other[key], f'{path}/{key}')]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [path]
        pairs = enumerate(zip(one, other, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f'{path}/{index}')]
    if isinstance(one, types.MethodType):
        one, other = one.__name__, other.__name__
    return [] if one == other else [path]
