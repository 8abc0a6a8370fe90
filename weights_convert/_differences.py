"""What is missing and what is too much, on one line."""

from collections.abc import Collection

_SHOWN = 3
_LONGEST = 60  # characters of a name


def two_sided(missing: Collection[str], unexpected: Collection[str]) -> str:
    """Such as `2 missing (model.0.conv.weight, model.0.bn.bias), 1 unexpected (model.3.gamma)`."""
    sides = (('missing', missing), ('unexpected', unexpected))
    return ', '.join(f'{len(names)} {side} ({_first(names)})' for side, names in sides if names)


def _first(names: Collection[str]) -> str:
    shown = [name if len(name) <= _LONGEST else f'{name[:_LONGEST]}...' for name in list(names)[:_SHOWN]]
    return ', '.join([*shown, *(['...'] if len(names) > _SHOWN else [])])
