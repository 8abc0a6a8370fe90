"""What each command does, as one function."""

from jaxprune.pipeline._convert import convert
from jaxprune.pipeline._demo import demo
from jaxprune.pipeline._detect import detect
from jaxprune.pipeline._evaluate import evaluate, val
from jaxprune.pipeline._iterate import iterate
from jaxprune.pipeline._model import connections, export_model, info, new
from jaxprune.pipeline._prune import plan_diff, plan_rows, prune, prune_model
from jaxprune.pipeline._run import IterateSettings
from jaxprune.pipeline._scan import ScanSettings, estimate, preview, scan
from jaxprune.pipeline._select import SelectSettings, select
from jaxprune.pipeline._train import train

__all__ = [
    'IterateSettings',
    'ScanSettings',
    'SelectSettings',
    'connections',
    'convert',
    'demo',
    'detect',
    'estimate',
    'evaluate',
    'export_model',
    'info',
    'iterate',
    'new',
    'plan_diff',
    'plan_rows',
    'preview',
    'prune',
    'prune_model',
    'scan',
    'select',
    'train',
    'val',
]
