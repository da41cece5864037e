"""Which linears share which scores: the building blocks of a strategy's layout."""

from prune_core.errors import StructureError
from prune_core.granularity import Block, Element, Granularity
from prune_core.kit.scores import GroupPlan, Part, Target
from prune_core.structure import Attention, FeedForward, ModelStructure, Role, Unit

CONSUMERS = frozenset({Role.ATTENTION_OUTPUT, Role.FFN_DOWN})


def separate(unit: Unit, granularity: Granularity) -> list[GroupPlan]:
    """One group a linear, all of one granularity (that of a weight [out, in])."""
    part: Part = "attention" if isinstance(unit, Attention) else "ffn"
    granularity = granularity.turned() if unit.turned else granularity
    return [
        GroupPlan(f"{unit.key}.{role.value}", part, (Target(name, granularity, consumer=role in CONSUMERS),))
        for name, role in unit.linears().items()
    ]


def joint(unit: Attention, block: Block) -> list[GroupPlan]:
    """One block mask shared by query, key, value and, transposed, the output (not with grouped queries)."""
    if not unit.heads:
        return []
    if unit.heads != unit.key_value_heads:
        raise StructureError(
            f"{unit.key} has {unit.heads} query heads and {unit.key_value_heads} key heads: a joint mask needs as many "
            "of both; turn joint_attention off"
        )
    if unit.fused or unit.paired:
        several = "query, key and value" if unit.fused else "key and value"
        raise StructureError(
            f"{unit.key} has {several} in one matrix, {unit.value}: a joint mask needs one of each; "
            "turn joint_attention off"
        )
    block = block.turned() if unit.turned else block
    inputs = tuple(Target(name, block) for name in (unit.query, unit.key_, unit.value))
    output = Target(unit.output, block.turned(), transposed=True, consumer=True)
    return [GroupPlan(f"{unit.key}.joint", "attention", (*inputs, output))]


def heads(unit: Attention) -> list[GroupPlan]:
    """One score a key/value head and its query heads: rows of query, key and value, columns of the output."""
    return [GroupPlan(f"{unit.key}.heads", "attention", _whole(unit))] if unit.heads else []


def head_slices(unit: Attention) -> list[GroupPlan]:
    """One score a head and matrix: head-sized slices that come and go matrix by matrix."""
    roles = [role.value for role in unit.linears().values()]
    return [
        GroupPlan(f"{unit.key}.{role}", "attention", (target,))
        for role, target in zip(roles, _whole(unit), strict=True)
    ]


def neurons(unit: FeedForward) -> list[GroupPlan]:
    """One score a neuron: its row of up (and gate), its column of down."""
    return [GroupPlan(f"{unit.key}.neurons", "ffn", _whole(unit), narrows=True)] if unit.size else []


def _whole(unit: Unit) -> tuple[Target, ...]:
    """All linears of a unit, by its whole heads or neurons."""
    return tuple(Target(name, unit.slice_of(name), consumer=role in CONSUMERS) for name, role in unit.linears().items())


def elements(structure: ModelStructure, granularity: Granularity | None = None) -> list[GroupPlan]:
    """One score a weight of every prunable linear."""
    return [plan for unit in structure.units for plan in separate(unit, granularity or Element())]
