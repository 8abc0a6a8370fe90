"""Finding a layer, and the group that it is pruned with, by index or by name."""

import fnmatch
from collections.abc import Iterable, Mapping

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
    if isinstance(index, str | bool) or not 0 <= index < len(graph.layers):
        last = len(graph.layers) - 1
        raise UserError(f'layer {key!r} does not exist: give an index from 0 to {last} or a name ({_examples(graph)})')
    return graph.layers[int(index)]


def prunable_group(graph: Graph, layer: LayerInfo) -> Group:
    """The group of a layer; a `UserError` with the reason where it cannot be pruned."""
    if not layer.prunable:
        raise UserError(f'layer {layer.index} ({layer.name}) cannot be pruned: {layer.reason or "it is protected"}')
    group = graph.group_of(layer.name)
    if group.protected:
        raise UserError(f'layer {layer.index} ({layer.name}) cannot be pruned: {group.protected}')
    return group


def lowest_layer(graph: Graph, group: Group) -> LayerInfo:
    """The member of a group with the lowest index; the group goes by its name."""
    return min((layer for layer in graph.layers if layer.name in group.layers), key=lambda layer: layer.index)


def matches(graph: Graph, group: Group, patterns: Iterable[str], aliases: Mapping[str, str] | None = None) -> bool:
    """Whether an index, a name or an alias of any member of the group matches any of the shell patterns."""
    members = [layer for layer in graph.layers if layer.name in group.layers]
    others = [alias for alias, name in (aliases or {}).items() if name in group.layers]
    texts = [str(layer.index) for layer in members] + [layer.name for layer in members] + others
    return any(fnmatch.fnmatchcase(text, str(pattern)) for text in texts for pattern in patterns)


def check_patterns(graph: Graph, patterns: Iterable[str], aliases: Mapping[str, str] | None = None) -> None:
    """A `UserError` for a pattern that no layer matches: most likely a typing mistake."""
    texts = [text for layer in graph.layers for text in (str(layer.index), layer.name)] + list(aliases or {})
    for pattern in patterns:
        if not fnmatch.filter(texts, str(pattern)):
            raise UserError(f'pattern {pattern!r} matches no layer: layers have names such as {_examples(graph)}')


def _examples(graph: Graph) -> str:
    return ', '.join(layer.name for layer in graph.layers[:2])
