"""What a report tells, as data: the run that is told about need not be at hand."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """A model as measured: mAP in 0..1, parameters as published (folded), GFLOPs of one image."""

    map50_95: float
    map50: float
    parameters: int
    gflops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenLayer:
    """One layer that an iteration pruned.

    Attributes:
      layer: published index.
      name: PyTorch name.
      rate: part of the filters that went, 0..1.
      chosen_for: `params`, `FLOPS` or `both`.
    """

    layer: int
    name: str
    rate: float
    chosen_for: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterationSummary:
    """One round of scan, selection, pruning and fine-tuning.

    Attributes:
      index: 1 for the first.
      map50_95_before_finetuning, map50_before_finetuning: of the pruned model as cut.
      map50_95_after, map50_after: of the same after fine-tuning.
      parameters, gflops: of the pruned model.
      chosen: the layers that were pruned.
      sensitivity: rows of the scan before pruning, with `layer` (None for the unpruned model), `rate`, `map50_95`.
      layer_names: PyTorch names by published index.
    """

    index: int
    map50_95_before_finetuning: float
    map50_95_after: float
    map50_before_finetuning: float | None = None
    map50_after: float | None = None
    parameters: int
    gflops: float
    chosen: tuple[ChosenLayer, ...] = ()
    sensitivity: tuple[Row, ...] = ()
    layer_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """The same image with the detections of the first and of the last model: PNG or JPEG, as bytes or a file."""

    caption: str
    before: bytes | pathlib.Path
    after: bytes | pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A whole run, finished or not."""

    title: str
    baseline: Metrics
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    iterations: tuple[IterationSummary, ...] = ()
    pictures: tuple[Picture, ...] = ()
