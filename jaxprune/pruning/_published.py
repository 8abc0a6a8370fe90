"""The layers and rates that the published experiments pruned."""

from typing import Any

import yaml

from jaxprune import resources
from jaxprune.errors import UserError


def published_iterations(name: str) -> list[dict[str, Any]]:
    """The iterations published for an architecture, in order.

    Args:
      name: `yolov7` or `yolov7-tiny`.

    Returns:
      For each iteration `{'iteration': 1…, 'layers': [{'layer', 'rate', 'chosen_for'}, …]}`, layers in published order;
      layer indices are those of the unpruned model, rates are shares of the filters that the iterations before left.

    Raises:
      UserError: if nothing was published for this architecture.
    """
    file = resources.path('prune', f'{name}.yaml')
    if not file.is_file():
        known = ', '.join(sorted(other.stem for other in file.parent.glob('*.yaml')))
        raise UserError(f'no iterations were published for {name!r}: give one of {known}')
    rows = yaml.safe_load(file.read_text(encoding='utf-8'))['iterations']
    return [{'iteration': number, 'layers': [_entry(text) for text in row]} for number, row in enumerate(rows, start=1)]


def _entry(text: str) -> dict[str, Any]:
    layer, rate, chosen_for = text.split()
    return {'layer': int(layer), 'rate': float(rate), 'chosen_for': chosen_for}
