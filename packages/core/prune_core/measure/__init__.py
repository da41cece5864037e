"""Honest measurement: random inputs, interleaved timing, FLOPs, bytes, the machine, a model against its baseline."""

from prune_core.measure.comparison import Comparison, DType, Side, compare, compare_folders
from prune_core.measure.flops import count_flops
from prune_core.measure.host import Machine, machine, pick_device
from prune_core.measure.inputs import dummy_inputs, placed
from prune_core.measure.memory import activation_bytes, folder_size, weight_bytes
from prune_core.measure.timing import Timing, paired_ratio, time_calls

__all__ = [
    "Comparison",
    "DType",
    "Machine",
    "Side",
    "Timing",
    "activation_bytes",
    "compare",
    "compare_folders",
    "count_flops",
    "dummy_inputs",
    "folder_size",
    "machine",
    "paired_ratio",
    "pick_device",
    "placed",
    "time_calls",
    "weight_bytes",
]
