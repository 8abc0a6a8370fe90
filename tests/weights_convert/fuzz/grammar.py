"""Files that hypothesis makes: pickles from a grammar of opcodes, and networks with something wrong in them."""

from typing import Any

from hypothesis import strategies as st

from fuzz import networks
from fuzz.emit import PROTO, STOP, Call, Class, Instance, Persistent, Raw, archive, dumps, legacy, named, opcodes
from fuzz.snippets import CLASSES, INTEGERS, LARGE, NAMES, TEXTS

_SMALL = sorted(set(networks.TREES) - {'registry'})
_WORDS = st.one_of(st.sampled_from(NAMES), st.sampled_from(TEXTS), st.text(max_size=8))
_ANY_LARGE = st.integers(0, len(LARGE) - 1).map(lambda index: LARGE[index])  # too long to be shown
_NUMBERS = st.one_of(st.sampled_from(INTEGERS), _ANY_LARGE, st.integers(-5, 300), st.integers())
_PLAIN = st.one_of(st.none(), st.booleans(), _NUMBERS, st.floats(), _WORDS, st.binary(max_size=8))
_CLASS = st.sampled_from(CLASSES)
_SIZES = st.lists(st.one_of(st.integers(0, 4), _NUMBERS), max_size=7).map(tuple)


@st.composite
def _tensors(draw: st.DrawFn) -> Call:
    shape = draw(_SIZES)
    strides = draw(st.one_of(_SIZES, st.just((0,) * len(shape))))
    kind, key, size = draw(_CLASS), draw(st.one_of(st.just('0'), _WORDS)), draw(st.one_of(st.just(512), _NUMBERS))
    view = draw(st.sampled_from(((), (None,), (('1', 0, 4),), (('1', -1, 1 << 70),))))
    storage = Persistent(('storage', kind, key, 'cpu', size, *view))
    arguments = (storage, draw(_NUMBERS), shape, strides, False, {})
    function = Class(
        'torch._utils', draw(st.sampled_from(('_rebuild_tensor_v2', '_rebuild_tensor', '_rebuild_parameter')))
    )
    return Call(function, arguments[: draw(st.integers(0, 6))] if draw(st.booleans()) else arguments)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(_WORDS, st.integers(0, 3)), inner, max_size=4),
        st.builds(Instance, _CLASS, inner),
        st.builds(Call, _CLASS, inner),
    )


DATA = st.recursive(st.one_of(_PLAIN, _CLASS, _tensors()), _containers, max_leaves=12)


@st.composite
def broken_networks(draw: st.DrawFn) -> bytes:
    """A network in which one to three values, at any depth, are others."""
    tree = networks.TREES[draw(st.sampled_from(_SMALL))]()
    for _ in range(draw(st.integers(1, 3))):
        _break(draw, tree)
    return dumps(tree)


def _break(draw: st.DrawFn, tree: Any) -> None:
    places = _places(tree)
    if not places:  # nothing is left of it
        return
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    action = draw(st.integers(0, 5))
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[draw(_WORDS)] = holder.pop(key)
    elif action == 2:
        other, where = places[draw(st.integers(0, len(places) - 1))]
        _set(holder, key, other[where] if isinstance(other, dict | list) else getattr(other, where))
    else:
        _set(holder, key, draw(st.one_of(_PLAIN, _NUMBERS, _tensors(), DATA)))


def _set(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, dict | list):
        holder[key] = value
    else:
        setattr(holder, key, value)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Where a value stands: its holder, and the key, index or attribute. Every holder once."""
    found: list[tuple[Any, Any]] = []
    pending, seen = [tree], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        keys = {
            Instance: ['cls', 'state'],
            Call: ['function', 'arguments'],
            dict: value,
            list: range(len(value) if isinstance(value, list) else 0),
        }
        for key in [*keys.get(type(value), ())]:
            found.append((value, key))
            pending.append(value[key] if isinstance(value, dict | list) else getattr(value, key))
    return found


_ATOMS = st.one_of(
    _PLAIN.map(opcodes),
    _CLASS.map(named),
    st.sampled_from([b')', b']', b'}', b'(', b'(', b'\x8f', b'N']),
    st.integers(0, 5).map(lambda index: b'h' + bytes([index])),
    st.integers(0, 5).map(lambda index: b'q' + bytes([index])),
    st.sampled_from(
        [b't', b'l', b'd', b'\x85', b'\x86', b'\x87', b'a', b'e', b's', b'u', b'R', b'b', b'\x81', b'\x92', b'Q']
    ),
    st.sampled_from(
        [b'0', b'1', b'2', b'\x90', b'\x91', b'\x93', b'\x94', b'i', b'o', b'.', b'\x82\x01', b'\x97', b'\x98', b'P1\n']
    ),
    DATA.map(opcodes),
    st.sampled_from(_SMALL).map(lambda name: networks.seed(name)[2:-1]),
)


def grammatical() -> st.SearchStrategy[bytes]:
    """Any opcodes in a row."""
    return st.lists(_ATOMS, min_size=1, max_size=25).map(lambda parts: PROTO + b''.join(parts) + STOP)


def whole_data() -> st.SearchStrategy[bytes]:
    """Plain data where a network is expected, under the names that are looked for."""
    entries = st.sampled_from(('model', 'ema', 'state_dict', 'module'))
    return st.one_of(DATA, st.dictionaries(entries, DATA, min_size=1, max_size=2)).map(dumps)


@st.composite
def whole_files(draw: st.DrawFn) -> bytes:
    """A file around a pickle of any of these kinds."""
    content = draw(st.one_of(broken_networks(), broken_networks(), grammatical(), whole_data()))
    storage = draw(st.sampled_from((networks.ONES, networks.ONES, b'', bytes(2048), b'\xff' * 2048)))
    return legacy(content, {'0': storage}) if draw(st.integers(0, 4)) == 0 else archive(content, {'0': storage})


__all__ = ['DATA', 'Raw', 'broken_networks', 'grammatical', 'whole_data', 'whole_files']
