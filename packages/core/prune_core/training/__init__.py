"""Drive a Strategy through transformers' Trainer.

Everything that moves follows from the Trainer's global step, and everything learned is a parameter or buffer of the
model, so a resumed run ends as one that was never stopped.
"""

from prune_core.training.arguments import arguments, check_training, evaluation_arguments, on_one_gpu, steps_of
from prune_core.training.sampling import is_text, lengths_of
from prune_core.training.sharded import ShardedTrainer
from prune_core.training.stage import train
from prune_core.training.trainer import PruningTrainer, make_trainer

__all__ = [
    "PruningTrainer",
    "ShardedTrainer",
    "arguments",
    "check_training",
    "evaluation_arguments",
    "is_text",
    "lengths_of",
    "make_trainer",
    "on_one_gpu",
    "steps_of",
    "train",
]
