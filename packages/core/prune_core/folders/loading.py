"""Compact models load with plain `from_pretrained`: sizes travel in config.json as a quantization config.

transformers lets a registered quantizer prepare the empty model before its weights come; ours cuts every unit to the
size that was saved, by the code that compaction runs, and then leaves: the loaded model is an ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from prune_core import __version__
from prune_core.architectures import Architecture, Stack
from prune_core.compaction.restore import restore
from prune_core.compactor import UnitReport
from prune_core.described import ArchitectureSection, as_data
from prune_core.discovery import found
from prune_core.errors import ModelError, PluginError
from prune_core.plugins import Plugins, load_plugins
from prune_core.recipe import explain
from prune_core.rewriting.no_norm import without_norms
from prune_core.structure import Attention, ModelStructure, Unit, discover, model_type

if TYPE_CHECKING:  # this module is imported while transformers itself still is
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter

METHOD = "prune"
FORMAT_VERSION = 1
TRAITS = ("no_norm", "two_of_four")
"""What a compact model may be beside its sizes; once it is, it stays so."""


@register_quantization_config(METHOD)
class PruneConfig(QuantizationConfigMixin):
    """What was kept of each unit: `units` maps a key to {"kept": heads, or a number of neurons, "of": total}.

    `plugin` is the distribution by whose description of the family units were found: loading finds them by it again,
    also where another distribution claims this type of model. `architecture` is the layout that they were found by
    where no family covers the model: plain data, which loading reads before it looks for a family. `no_norm`: its
    LayerNorms are affine layers. `two_of_four`: its linears compute by semi-structured kernels where they can.
    `embedding_bits`: in how many bits word embeddings are stored, where they are not floats.
    """

    no_norm: bool
    two_of_four: bool

    def __init__(
        self, units: dict[str, Any] | None = None, sparse: bool = False, version: int = FORMAT_VERSION, **extra: Any
    ) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # an enum of theirs, a plain string once registered
        self.units = units if units is not None else {}
        self.sparse = sparse
        self.version = version
        self.plugin = extra.get("plugin")
        self.architecture = extra.get("architecture")
        for trait in TRAITS:
            setattr(self, trait, bool(extra.get(trait, False)))
        self.embedding_bits: int | None = extra.get("embedding_bits")
        self.prune_core = extra.get("prune_core", __version__)


@register_quantizer(METHOD)
class PruneQuantizer(HfQuantizer):
    """Cuts the empty model to its saved sizes, and steps aside once the weights are in.

    Whole steps of theirs are replaced: they mark the model as a quantized one, which it never is.
    """

    quantization_config: PruneConfig

    def preprocess_model(self, model: PreTrainedModel, dtype: Any = None, **kwargs: Any) -> None:
        cut_to(model, self.quantization_config)

    def postprocess_model(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from prune_core.embeddings.bits import form
        from prune_core.folders.portable import forget
        from prune_core.folders.storage import SPARSE, unpack_state

        model.config.quantization_config = config = self.quantization_config
        forms = [
            *([SPARSE] if config.sparse else []),
            *([form(config.embedding_bits)] if config.embedding_bits else []),
        ]
        for one in forms:
            model.register_load_state_dict_pre_hook(partial(unpack_state, form=one))
        forget(model.config)
        del model.hf_quantizer

    def update_weight_conversions(
        self, weight_conversions: list[WeightConverter], model: PreTrainedModel
    ) -> list[WeightConverter]:
        from prune_core.embeddings import bits as embeddings
        from prune_core.folders import storage

        config = self.quantization_config
        conversions = list(weight_conversions)
        if config.sparse:
            conversions += storage.converters(model, _structure(model, load_plugins(), config).linears())
        if config.embedding_bits:
            conversions += embeddings.converters(model, config.embedding_bits)
        return conversions

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def structure_of(model: Any, plugins: Plugins | None = None) -> ModelStructure:
    """The units of a model by the family that `plugins` (all that are installed, by default) describe for its type.

    Where none does they are found by names and shapes. StructureError where that is not clear, or the family's layout
    does not fit; PluginError where several distributions describe it.
    """
    return _structure(model, load_plugins() if plugins is None else plugins, _recorded(model))


def _structure(model: Any, plugins: Plugins, recorded: PruneConfig | None) -> ModelStructure:
    """The units of a model: as a recipe describes it, as it says itself, by its family, or by names and shapes."""
    layout = plugins.described or _read_layout(recorded)
    families, owner = ([], None) if layout else plugins.families(model_type(model), _owner(recorded))
    if families:
        return replace(discover(model, families), owner=owner)
    if layout is None and _owner(recorded):
        raise PluginError(
            f"the family of this model is described by the plugin {_owner(recorded)}, which offers none for model type "
            f"{model_type(model)!r} here: install it"
        )
    layout = replace(
        layout or _of_parts(model, plugins) or found(model),
        name=str(model_type(model)),
        model_types=(str(model_type(model)),),
    )
    return replace(discover(model, [layout]), layout=layout)


def _of_parts(model: Any, plugins: Plugins) -> Architecture | None:
    """The layout of models put together, one of which has Conv1Ds, which are not read by names: by its family.

    None of other models, and where a family needs an adapter, which no layout of a single model can name.
    """
    parts = {name: part for name, part in model.named_children() if hasattr(part, "config")}
    if len(parts) < 2 or not any(isinstance(module, Conv1D) for module in model.modules()):
        return None
    stacks: list[Stack] = []
    for name, part in parts.items():
        fused = any(isinstance(module, Conv1D) for module in part.modules())
        structure = discover(part, plugins.families(model_type(part))[0] if fused else [found(part)])
        for stack in structure.stacks:
            core = next(unit for unit in structure.attention if structure.stack_of(unit) is stack).core
            layers = f"{name}.{core.partition(f'{stack.layers}.')[0]}{stack.layers}"
            stacks.append(replace(stack, layers=layers, name=f"{name}.{stack.name}".rstrip("."), sizes=None))
    adapted = any(unit.adapter for stack in stacks for unit in stack.attention.values())
    return None if adapted else Architecture("", (), tuple(stacks))


def _read_layout(recorded: PruneConfig | None) -> Architecture | None:
    """The layout in a compact model's configuration, if it has one; ModelError where it is none."""
    if recorded is None or recorded.architecture is None:
        return None
    try:
        return ArchitectureSection.model_validate(recorded.architecture).layout("")
    except ValidationError as error:
        wrong = explain(error, ArchitectureSection, "config.json", "quantization_config.architecture")
        raise ModelError(wrong.replace("\n", "; ")) from error


def _owner(recorded: PruneConfig | None) -> str | None:
    return recorded.plugin if recorded else None


def record_no_norm(model: PreTrainedModel, structure: ModelStructure) -> None:
    """Write into the model's config that the LayerNorms of its layers are affine layers."""
    whole = tuple(UnitReport(unit.key, tuple(range(unit.count)), unit.count) for unit in structure.units)
    before = _recorded(model)
    record(model, whole, structure, sparse=before is not None and before.sparse, no_norm=True)


def record_embedding_bits(model: PreTrainedModel, bits: int, owners: Iterable[PreTrainedModel]) -> None:
    """Write into the model's config that its word embeddings are stored in so many bits.

    So say those of the models in it that have some (`owners`) too, which may be loaded by themselves.
    """
    for one in (model, *owners):
        config = _recorded(one) or PruneConfig()
        config.embedding_bits = bits
        one.config.quantization_config = config


def _recorded(model: PreTrainedModel) -> PruneConfig | None:
    """What the config of a compact model says; None where it is a dense one."""
    found = getattr(model.config, "quantization_config", None)
    return found if isinstance(found, PruneConfig) else None


def record(
    model: PreTrainedModel,
    reports: tuple[UnitReport, ...],
    structure: ModelStructure,
    *,
    sparse: bool,
    **traits: bool,
) -> None:
    """Write into the model's config what was kept, and which of `TRAITS` it has, so that it saves and reloads so.

    A model that was compact already keeps the indices of its own first dense self, and its traits.
    """
    from prune_core.folders.storage import repack_only

    repack_only(model, structure.left_in(model) if sparse else ())
    before = _recorded(model)
    known = dict(before.units) if before else {}
    for report in reports:
        unit = structure.unit(report.key)
        known[report.key] = _compose(known.get(report.key), report, unit)
    has = {name: traits.get(name, False) or bool(getattr(before, name, False)) for name in TRAITS}
    if any(entry["kept"] != _all(entry) for entry in known.values()) or sparse or any(has.values()):
        layout = as_data(structure.layout) if structure.layout else None
        others: dict[str, Any] = {
            "plugin": structure.owner,
            **has,
            "embedding_bits": getattr(before, "embedding_bits", None),
        }
        model.config.quantization_config = PruneConfig(known, sparse, architecture=layout, **others)
        recorded = partial(PruneConfig, sparse=sparse, **others)
        for stack in structure.stacks:
            _record_part(model, stack, known, recorded, structure.owner)


def _record_part(
    model: PreTrainedModel,
    stack: Stack,
    units: dict[str, Any],
    recorded: Callable[[dict[str, Any]], PruneConfig],
    owner: str | None,
) -> None:
    """A stack with a configuration of its own may be loaded by itself: as a model of the family of that one."""
    part = stack.sizes.heads.rpartition(".")[0] if stack.sizes else ""
    own = {key.removeprefix(stack.prefix): entry for key, entry in units.items() if key.startswith(stack.prefix)}
    config = getattr(model.config, part) if part and own else None
    families = load_plugins().families(config.model_type, owner)[0] if config is not None else []
    if config is not None and families:
        prefix = families[0].stacks[0].prefix
        config.quantization_config = recorded({f"{prefix}{key}": entry for key, entry in own.items()})


def cut_to(model: PreTrainedModel, config: PruneConfig) -> None:
    """Resize a model of the original sizes as `config` says. ModelError where the two do not belong together."""
    if config.version != FORMAT_VERSION:
        raise ModelError(
            f"this model has prune format {config.version!r}, this prune-core reads {FORMAT_VERSION}: "
            "install the prune-core that wrote it, or a later one"
        )
    if config.embedding_bits and not config.units and not any(getattr(config, trait) for trait in TRAITS):
        return  # nothing was cut, its word embeddings alone are stored otherwise
    with torch._C.DisableTorchFunction():  # from_pretrained's choice of a device would be asked at each of many steps
        structure = _structure(model, load_plugins(), config)
        restore(model, structure, config.units)
    if config.no_norm:
        without_norms(model, structure)
    if config.two_of_four:
        take_two_of_four(model, structure)


def take_two_of_four(model: PreTrainedModel, structure: ModelStructure) -> None:
    """Let the prunable linears of a compact model be `TwoOfFour`, as which they compute densely where they must."""
    from prune_core.sparse.forms import TwoOfFour

    for name in structure.left_in(model):
        layer = model.get_submodule(name)
        if type(layer) is nn.Linear:
            TwoOfFour.take(layer)


def _all(entry: dict[str, Any]) -> int | list[int]:
    return list(range(entry["of"])) if isinstance(entry["kept"], list) else int(entry["of"])


def _compose(before: dict[str, Any] | None, report: UnitReport, unit: Unit) -> dict[str, Any]:
    """Entry of a unit: which heads of the dense model, or how many neurons."""
    if not isinstance(unit, Attention):
        return {"kept": len(report.kept), "of": before["of"] if before else report.total}
    if before is None:
        return {"kept": list(report.kept), "of": report.total}
    return {"kept": [before["kept"][index] for index in report.kept], "of": before["of"]}
