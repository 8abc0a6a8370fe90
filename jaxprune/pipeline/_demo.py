"""What `demo` does: the whole method on a detector and a data set that come with the package."""

import pathlib

from jaxprune import resources
from jaxprune.data.shapes import write_shapes
from jaxprune.files import Path
from jaxprune.pipeline._iterate import iterate
from jaxprune.pipeline._run import IterateSettings, Json

SETTINGS = IterateSettings(
    iterations=2,
    params_layers=4,
    flops_layers=2,
    map_power=40,
    epochs=10,
    recipe='shapes-finetune',
    image_size=128,
)


def demo(output: Path) -> Json:
    """Draws the data set, then prunes the small detector that was trained on it; returns what `iterate` returns."""
    root = pathlib.Path(output)
    return iterate(resources.path('demo'), write_shapes(root / 'shapes'), root / 'run', SETTINGS)
