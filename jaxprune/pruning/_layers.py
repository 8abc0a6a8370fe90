"""Finding a layer, and the group that it is pruned with, by index or by name."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, LayerInfo

Key = int | str


def find_layer(graph: Graph, key: Key, aliases: Mapping[str, str] | None = None) -> LayerInfo:
    """The layer with this index or name.

    Args:
      graph: connectivity of the model.
      key: index, name, or an index written as text.
      aliases: other names (such as PyTorch's) of layers -> their names.

    Raises:
      UserError: if there is none.
    """
    by_name = {layer.name: layer for layer in graph.layers}
    name = (aliases or {}).get(key, key) if isinstance(key, str) else key
    if isinstance(name, str) and name in by_name:
        return by_name[name]
    index = int(name) if isinstance(name, str) and name.isdecimal() else name
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(graph.layers):
        last = len(graph.layers) - 1
        raise UserError(f'layer {key!r} does not exist: give an index from 0 to {last} or a name ({_examples(graph)})')
    return graph.layers[int(index)]


def is_name(graph: Graph, key: Key, aliases: Mapping[str, str] | None = None) -> bool:
    """Whether a key names one layer or group (or its index does), and is no pattern."""
    names = {layer.name for layer in graph.layers} | {group.name for group in graph.groups} | set(aliases or {})
    if not isinstance(key, int | str):
        raise UserError(f'{key!r} is no layer: give an index, a name or a pattern')
    return isinstance(key, int) or key.isdecimal() or key in names


def find_group(graph: Graph, key: Key, aliases: Mapping[str, str] | None = None) -> Group:
    """The group that can be pruned and goes by this name, or that this layer (by index or name) produces.

    Args:
      graph: connectivity of the model.
      key: `Group.name`, or a layer as in `find_layer`.
      aliases: as in `find_layer`.

    Raises:
      UserError: if there is none, none of them can be pruned, or the layer produces several of them.
    """
    named = next((group for group in graph.groups if group.name == key), None)
    if named is not None:
        return _prunable([named], lowest_layer(graph, named))
    layer = find_layer(graph, key, aliases)
    return _prunable([group for group in graph.groups if layer.name in group.layers], layer)


def _prunable(groups: Sequence[Group], layer: LayerInfo) -> Group:
    """The one that is not protected."""
    found = [group for group in groups if group.protected is None]
    if not found:
        reason = groups[0].protected if groups else layer.reason
        raise UserError(f'layer {layer.index} ({layer.name}) cannot be pruned: {reason or "it is protected"}')
    if len(found) > 1:
        names = ', '.join(group.name for group in found)
        raise UserError(f'layer {layer.index} ({layer.name}) produces several groups of channels: name one of {names}')
    return found[0]


def lowest_layer(graph: Graph, group: Group) -> LayerInfo:
    """The member of a group with the lowest index."""
    return min((layer for layer in graph.layers if layer.name in group.layers), key=lambda layer: layer.index)


def describe(graph: Graph, group: Group) -> str:
    """What messages call a group: its lowest layer's index, and its name."""
    return f'layer {lowest_layer(graph, group).index} ({group.name})'


def matches(graph: Graph, group: Group, patterns: Iterable[str], aliases: Mapping[str, str] | None = None) -> bool:
    """Whether the group's name, or an index, a name or an alias of any member, matches any of the shell patterns."""
    members = [layer for layer in graph.layers if layer.name in group.layers]
    others = [alias for alias, name in (aliases or {}).items() if name in group.layers]
    texts = [group.name, *(str(layer.index) for layer in members), *(layer.name for layer in members), *others]
    return any(fnmatch.fnmatchcase(text, str(pattern)) for text in texts for pattern in patterns)


def pattern_list(given: Iterable[str], name: str) -> tuple[str, ...]:
    """The patterns of an argument; a `UserError` for a single one, which would be read letter by letter."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UserError(f'{name} is {given!r}: give a list of patterns, such as ["conv*", "3"]')
    return tuple(given)


def check_patterns(graph: Graph, patterns: Iterable[str], aliases: Mapping[str, str] | None = None) -> None:
    """A `UserError` for a pattern that no layer matches: most likely a typing mistake."""
    texts = [text for layer in graph.layers for text in (str(layer.index), layer.name)]
    texts += [group.name for group in graph.groups] + list(aliases or {})
    for pattern in patterns:
        if not fnmatch.filter(texts, str(pattern)):
            raise UserError(f'pattern {pattern!r} matches no layer: layers have names such as {_examples(graph)}')


def _examples(graph: Graph) -> str:
    return ', '.join(layer.name for layer in graph.layers[:2])
