"""Honest measurement: random inputs, interleaved timing, FLOPs, bytes, the machine, a model against its baseline."""

from prune_core.bench.grid import Grid, Setting
from prune_core.measure.comparison import Comparison, compare, compare_folders, fitting
from prune_core.measure.flops import flops_of
from prune_core.measure.grids import Bench, Failure, Row, Side, bench
from prune_core.measure.host import Machine, machine, pick_device
from prune_core.measure.inputs import dummy_inputs, fitted, placed
from prune_core.measure.memory import activation_bytes, folder_size, weight_bytes
from prune_core.measure.runtimes import DENSE, LayerForm
from prune_core.measure.timing import Prepared, Ratio, Timing, paired_ratio, time_calls
from prune_core.recipe import DType

__all__ = [
    "DENSE",
    "Bench",
    "Comparison",
    "DType",
    "Failure",
    "Grid",
    "LayerForm",
    "Machine",
    "Prepared",
    "Ratio",
    "Row",
    "Setting",
    "Side",
    "Timing",
    "activation_bytes",
    "bench",
    "compare",
    "compare_folders",
    "dummy_inputs",
    "fitted",
    "fitting",
    "flops_of",
    "folder_size",
    "machine",
    "paired_ratio",
    "pick_device",
    "placed",
    "time_calls",
    "weight_bytes",
]
