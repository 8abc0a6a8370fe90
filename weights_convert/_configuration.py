"""The configuration in a checkpoint, from which the original's training script builds the network once more.

It has a row (from, number, module, arguments) per layer. The first argument of a convolution or block is its width,
which is multiplied by `width_multiple` and rounded up to a multiple of 8; what a block has inside follows from it.
"""

import re
from collections.abc import Mapping
from typing import Any

from jaxprune.models import spec as specs
from weights_convert._modules import Module

_LAYER = re.compile(r'model\.(\d{1,6})(?:\.(.*))?', re.ASCII)
_DIVISOR = 8

Parts = dict[str, specs.Layer]  # the layers within one row by name, such as `cv1`; one alone has none


def rewritten(configuration: Any, root: Module, spec: specs.ArchSpec) -> dict[str, Any] | None:
    """The configuration with the widths of `spec`; None where no configuration describes that network."""
    rows = _rows(configuration)
    if rows is None or len(rows) != len(root.child('model').children) or _has_folded(root, spec):
        return None
    parts = _parts(spec, len(rows))
    widths, depth = spec.widths(), configuration.get('depth_multiple', 1.0)
    found = [_row(row, inside, widths, depth) for row, inside in zip(rows, parts, strict=True)]
    if sum(len(inside) for inside in parts) != len(spec.layers) or None in found:
        return None
    backbone = len(configuration['backbone'])
    own = {'nc': len(spec.classes), 'width_multiple': 1.0}
    return {**configuration, **own, 'backbone': found[:backbone], 'head': found[backbone:]}


def _has_folded(root: Module, spec: specs.ArchSpec) -> bool:
    """Whether anything is folded that a network built from a configuration would have anew."""
    convolutions = (node for node in spec.layers if isinstance(node, specs.Conv) and node.pytorch_conv)
    return any(node.epsilon is None for node in convolutions) or any(module.is_fused for module in root.walk())


def _rows(configuration: Any) -> list[Any] | None:
    if not isinstance(configuration, dict):
        return None
    lists = [configuration.get(part) for part in ('backbone', 'head')]
    rows = [row for part in lists if isinstance(part, list) for row in part]
    fits = all(isinstance(row, list | tuple) and len(row) == 4 and isinstance(row[3], list | tuple) for row in rows)
    return rows if fits and all(isinstance(part, list) for part in lists) else None


def _row(row: Any, parts: Parts, widths: Mapping[str, int], depth: Any) -> list[Any] | None:
    """A row with its real width; None where a row cannot say that."""
    source, number, module, arguments = row
    if not parts or all(isinstance(part, specs.Head) for part in parts.values()):
        return list(row)
    if not isinstance(module, str) or not arguments or not isinstance(depth, int | float) or type(number) is not int:
        return None
    repeats = max(round(number * depth), 1) if number > 1 else 1
    width = _width(module, len(arguments), parts, widths, repeats)
    return None if width is None or width % _DIVISOR else [source, number, module, [width, *arguments[1:]]]


def _width(module: str, arguments: int, parts: Parts, widths: Mapping[str, int], repeats: int) -> int | None:
    """The one number from which all widths within a row follow."""
    own = {name: part.channels for name, part in parts.items()}
    last = list(parts.values())[-1]
    read = {name: widths[part.inputs[0]] for name, part in parts.items()}
    if module in ('Conv', 'RepConv', 'nn.Conv2d'):
        chained = repeats == 1 or set(read.values()) == set(own.values())
        fits = len(parts) == repeats and len(set(own.values())) == 1 and chained
        return last.channels if fits and all(map(_has_its_branches, parts.values(), read.values())) else None
    if module == 'SPPCSPC' and arguments == 1 and repeats == 1:
        return last.channels if len(set(own.values())) == 1 else None
    if module == 'DownC' and repeats == 1 and [*own] == ['cv1', 'cv2', 'cv3']:
        fits = own['cv1'] == read['cv1'] and own['cv2'] == own['cv3']
        return 2 * own['cv2'] if fits else None
    return None


def _has_its_branches(part: specs.Layer, read: int) -> bool:
    """Whether a RepConv has the identity branch that the original gives to every square one."""
    square = isinstance(part, specs.RepConv) and part.stride == (1, 1) and part.channels == read
    return not isinstance(part, specs.RepConv) or part.identity == square


def _parts(spec: specs.ArchSpec, rows: int) -> list[Parts]:
    """The layers of every row."""
    found: list[Parts] = [{} for _ in range(rows)]
    for node in spec.layers:
        match = _LAYER.fullmatch(node.pytorch_name)
        if match and int(match[1]) < rows:
            found[int(match[1])][match[2] or ''] = node
    return found
