"""Flax Linen: modules whose parameters, and the numbers that belong to them, follow given variables.

`nn.intercept_methods` meets every call of a module. There the module's width fields are set from the shapes of its
parameters, and its scope is made one that takes parameters as they are. Both belong to the bound copy of the module
that Flax makes for one call, never to the user's own.
"""

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.core import Scope, meta

from jaxprune.errors import UserError
from jaxprune.frameworks import _linen_layers

Shape = tuple[int, ...]
Shapes = tuple[tuple[tuple[str, ...], Shape], ...]
"""Path, the collection first, and shape of every leaf; hashable."""


@dataclasses.dataclass(frozen=True)
class _Widths:
    """Shapes that are wanted where variables do not exist yet.

    Attributes:
      shapes: by path below `base`.
      base: path of the module that the shapes belong to.
    """

    shapes: Mapping[tuple[str, ...], Shape]
    base: tuple[str, ...] = ()

    def find(self, scope: Scope, collection: str, name: tuple[str, ...]) -> Shape | None:
        path = tuple(scope.path)
        if path[: len(self.base)] != self.base:
            return None
        return self.shapes.get((collection, *path[len(self.base) :], *name))


class _FollowingScope(Scope):
    """A scope that takes variables in the shapes that they have, or that are wanted."""

    _widths: _Widths
    _module: weakref.ref[nn.Module] | None = None

    def param(self, name: str, init_fn: Any, *init_args: Any, unbox: bool = True, **init_kwargs: Any) -> Any:
        if self.has_variable('params', name):
            # Flax would trace the initialiser to compare shapes.
            self.reserve(name, 'params')
            value = self.get_variable('params', name)
            return meta.unbox(value) if unbox else value
        wanted = self._widths.find(self, 'params', (name,))
        init = init_fn if wanted is None else functools.partial(_initial, init_fn, wanted)
        return super().param(name, init, *init_args, unbox=unbox, **init_kwargs)

    def variable(self, col: str, name: str, init_fn: Any = None, *init_args: Any, **kwargs: Any) -> Any:
        wanted = self._widths.find(self, col, (name,))
        if wanted is None or init_fn is None:
            return super().variable(col, name, init_fn, *init_args, **kwargs)
        return super().variable(col, name, lambda *args: _cropped(init_fn(*args), wanted), *init_args, **kwargs)

    def push(self, name: str | None = None, prefix: str = '', reuse: bool = False) -> Scope:
        scope = super().push(name, prefix, reuse)
        parent = self._module and self._module()
        child = parent and parent._state.children.get(str(scope.name))
        _follow_scope(scope, self._widths, child if isinstance(child, nn.Module) else None)
        return scope


def _follow_scope(scope: Scope, widths: _Widths, module: nn.Module | None) -> None:
    """Makes the scope a following one, and brings the module that stands in it in line."""
    if type(scope) not in (Scope, _FollowingScope):
        return  # that of a dry run of `setup`, without variables
    if not isinstance(scope, _FollowingScope):
        scope.__class__ = _FollowingScope
    assert isinstance(scope, _FollowingScope)
    if '_widths' not in vars(scope):
        scope._widths = widths
    if module is not None:
        scope._module = weakref.ref(module)
        _fit(module, scope)


def _fit(module: nn.Module, scope: _FollowingScope, inputs: Shape | None = None) -> None:
    for field, value in _linen_layers.fields(module, functools.partial(_shape, scope), inputs).items():
        object.__setattr__(module, field, value)  # as Flax does: bound modules are frozen


def _shape(scope: _FollowingScope, *name: str, like: tuple[int | None, ...] | None = None) -> Shape | None:
    """Shape of a parameter below a scope: of its value, or else as wanted there."""
    node: Any = scope.variables().get('params', {})
    for key in name:
        node = node.get(key) if isinstance(node, Mapping) else None
    shape = scope._widths.find(scope, 'params', name) if node is None else _leaf_shape(node)
    if shape is None or like is None or len(shape) == len(like):
        return shape
    return None if None in like else _within(shape, like)  # type: ignore[arg-type]


def _follow(widths: _Widths, next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if isinstance(module.scope, Scope):
        _follow_scope(module.scope, widths, module)
    if isinstance(module.scope, _FollowingScope):
        for child in module._state.children.values():
            if isinstance(child, nn.Module) and isinstance(child.scope, Scope):
                _follow_scope(child.scope, widths, child)
        given = next((getattr(value, 'shape', None) for value in (*args, *kwargs.values())), None)
        if context.method_name == '__call__' and given is not None:
            _fit(module, module.scope, tuple(given))
    return next_fun(*args, **kwargs)


@contextlib.contextmanager
def following() -> Iterator[None]:
    """Every Linen module that is applied follows its variables."""
    with nn.intercept_methods(functools.partial(_follow, _Widths({}))):
        yield


def resize(model: nn.Module, small: Any) -> nn.Module:
    """See `jaxprune.frameworks.resize`."""
    if not isinstance(small, Mapping):
        raise UserError(f'a {type(model).__name__} takes variables in a dictionary, not a {type(small).__name__}')
    original = getattr(type(model), '_resized_from', type(model))
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model) if field.init}
    return _rebuild(original, tuple(_shapes(small)), {**fields, 'parent': None})


def _rebuild(original: Any, shapes: Shapes, fields: dict[str, Any]) -> nn.Module:
    return _subclass(original, shapes)(**fields)


_ACTIVE: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar(
    'resized modules that are running', default=()
)


@functools.lru_cache(maxsize=64)
def _subclass(original: Any, shapes: Shapes) -> type[nn.Module]:
    """The class at other widths; the same one for the same shapes, so that its instances compare equal."""
    wanted = dict(shapes)

    @nn.nowrap
    def _call_wrapped_method(self: Any, fun: Any, args: Any, kwargs: Any) -> Any:
        base = () if self.scope is None else tuple(self.scope.path)
        run = functools.partial(original._call_wrapped_method, self, fun, args, kwargs)
        return _while_active((shapes, base), _Widths(wanted, base), run)

    @nn.nowrap
    def __reduce__(self: Any) -> Any:  # noqa: N807
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        return _rebuild, (original, shapes, {**fields, 'parent': None})

    names = {name: getattr(original, name) for name in ('__module__', '__qualname__', '__doc__')}
    methods = {'_call_wrapped_method': _call_wrapped_method, '__reduce__': __reduce__, '_resized_from': original}
    return type(original.__name__, (original,), {**names, **methods})


def _while_active(key: Any, widths: _Widths, run: Callable[[], Any]) -> Any:
    """Runs a method with its module's shapes wanted; those of a method that calls another one are there already."""
    if key in _ACTIVE.get():
        return run()
    token = _ACTIVE.set((*_ACTIVE.get(), key))
    try:
        with nn.intercept_methods(functools.partial(_follow, widths)):
            return run()
    finally:
        _ACTIVE.reset(token)


def _shapes(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Shape]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _shapes(value, (*path, str(key)))
        elif (shape := _leaf_shape(value)) is not None:
            yield (*path, str(key)), shape


def _leaf_shape(leaf: Any) -> Shape | None:
    shape = getattr(leaf.unbox() if isinstance(leaf, meta.AxisMetadata) else leaf, 'shape', None)
    return None if shape is None else tuple(shape)


def _initial(init_fn: Any, wanted: Shape, key: Any, *args: Any, **kwargs: Any) -> Any:
    """An initial value of the shape that is wanted: asked for where the initialiser takes a shape, else cut."""
    named = dict(enumerate(args)) | kwargs
    places = [place for place, value in named.items() if _is_shape(value)]
    if places:
        changed = {**named, places[0]: _within(wanted, tuple(named[places[0]]))}
        given = [changed[place] for place in range(len(args))]
        with contextlib.suppress(TypeError, ValueError):  # one that holds an array of its own
            return _cropped(init_fn(key, *given, **{name: changed[name] for name in kwargs}), wanted)
    return _cropped(init_fn(key, *args, **kwargs), wanted)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(size, int) for size in value)


def _cropped(value: Any, wanted: Shape) -> Any:
    def crop(leaf: Any) -> Any:
        if len(leaf.shape) > len(wanted):
            return leaf
        return leaf[tuple(slice(size) for size in _within(wanted, tuple(leaf.shape)))]

    return jax.tree.map(crop, value)


def _within(wanted: Shape, asked: Shape) -> Shape:
    """The shape inside a lifted transform (scan, vmap), whose axes the stored shape has in addition.

    Those are the axes without which the rest fits what the module asks for: no size larger and as many as possible
    equal. In case of doubt they are the first axes, and else those without which the rest is largest.
    """
    extra = len(wanted) - len(asked)
    if extra <= 0:
        return wanted
    rests = [
        tuple(size for axis, size in enumerate(wanted) if axis not in lifted)
        for lifted in itertools.combinations(range(len(wanted)), extra)
    ]

    def fit(rest: Shape) -> tuple[bool, int, bool, int]:
        pairs = list(zip(rest, asked, strict=True))
        none_larger, equal = all(have <= ask for have, ask in pairs), sum(have == ask for have, ask in pairs)
        return none_larger, equal, rest == wanted[extra:], math.prod(rest)

    return max(rests, key=fit)
