"""The report of a run, with its plots."""

from jaxprune.report._html import write_report
from jaxprune.report._summary import ChosenLayer, IterationSummary, Metrics, Picture, RunSummary

__all__ = ['ChosenLayer', 'IterationSummary', 'Metrics', 'Picture', 'RunSummary', 'write_report']
