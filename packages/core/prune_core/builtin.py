"""What prune-core itself offers, through the same hooks as any plugin."""

from prune_core.architectures import Architecture
from prune_core.architectures.bart import BART
from prune_core.architectures.bert import BERT
from prune_core.architectures.distilbert import DISTILBERT
from prune_core.architectures.llama import LLAMA
from prune_core.architectures.opt import OPT
from prune_core.architectures.t5 import T5, T5_GATED
from prune_core.architectures.vit import VIT
from prune_core.hookspecs import CompactorSpec, TaskSpec, hookimpl
from prune_core.presets import GLUE_TASKS, MULTIPLE_CHOICE, SQUAD_TASKS, TOKEN_CLASSIFICATION, WORD_AND_CHOICE_TASKS


@hookimpl
def prune_compactors() -> list[CompactorSpec]:
    return [
        CompactorSpec(
            name="dense",
            summary="ordinary dense layers of smaller size: whole heads, neurons and units are removed",
            target="prune_core.compaction.dense:DenseCompactor",
        )
    ]


@hookimpl
def prune_tasks() -> list[TaskSpec]:
    return [
        TaskSpec(
            name="text-classification",
            summary="one label (or one number) for a text or a pair of texts",
            target="prune_core.tasks.text_classification:TextClassification",
            config="prune_core.tasks.config:TextClassificationConfig",
        ),
        TaskSpec(
            name="image-classification",
            summary="one label for an image",
            target="prune_core.tasks.image_classification:ImageClassification",
            config="prune_core.tasks.config:ImageClassificationConfig",
        ),
        TaskSpec(
            name="token-classification",
            summary="one tag for each word of a text: names, parts of speech",
            **TOKEN_CLASSIFICATION,
        ),
        TaskSpec(
            name="multiple-choice",
            summary="the right one of several texts: how a story goes on, the answer to a question",
            **MULTIPLE_CHOICE,
        ),
        *GLUE_TASKS,
        *SQUAD_TASKS,
        *WORD_AND_CHOICE_TASKS,
    ]


@hookimpl
def prune_architectures() -> list[Architecture]:
    return [BART, BERT, DISTILBERT, LLAMA, OPT, T5, T5_GATED, VIT]
