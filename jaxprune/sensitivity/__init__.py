"""Sensitivity analysis: what pruning each layer alone would cost."""

from jaxprune.sensitivity._scan import Candidate, Masks, scan
from jaxprune.sensitivity._table import Table, read_rows

__all__ = ['Candidate', 'Masks', 'Table', 'read_rows', 'scan']
