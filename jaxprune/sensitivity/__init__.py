"""Sensitivity analysis: what pruning each layer alone would cost."""

from jaxprune.sensitivity._any_model import candidates, checked_rates, scan_model
from jaxprune.sensitivity._engine import Batch, Model, devices
from jaxprune.sensitivity._estimate import Estimate, estimate
from jaxprune.sensitivity._memory import checked_memory
from jaxprune.sensitivity._metrics import Mean, Metric, distance, top1
from jaxprune.sensitivity._preview import order, preview
from jaxprune.sensitivity._racing import Racing
from jaxprune.sensitivity._rows import Candidate, Intervals
from jaxprune.sensitivity._scan import Batches, scan
from jaxprune.sensitivity._table import Share, Table, read_rows

__all__ = [
    'Batch',
    'Batches',
    'Candidate',
    'Estimate',
    'Intervals',
    'Mean',
    'Metric',
    'Model',
    'Racing',
    'Share',
    'Table',
    'candidates',
    'checked_memory',
    'checked_rates',
    'devices',
    'distance',
    'estimate',
    'order',
    'preview',
    'read_rows',
    'scan',
    'scan_model',
    'top1',
]
