"""Sensitivity analysis: what pruning each layer alone would cost."""

from jaxprune.sensitivity._scan import Candidate, scan
from jaxprune.sensitivity._table import Table, read_rows

__all__ = ['Candidate', 'Table', 'read_rows', 'scan']
