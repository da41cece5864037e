"""Which linears share which scores: the building blocks of a strategy's layout."""

from prune_core.errors import StructureError
from prune_core.granularity import Block, Element, Granularity, Head, Neuron
from prune_core.kit.scores import GroupPlan, Part, Target
from prune_core.structure import Attention, FeedForward, ModelStructure, Role, Unit

CONSUMERS = frozenset({Role.ATTENTION_OUTPUT, Role.FFN_DOWN})


def separate(unit: Unit, granularity: Granularity) -> list[GroupPlan]:
    """One group a linear, all of one granularity."""
    part: Part = "attention" if isinstance(unit, Attention) else "ffn"
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
    turned = Block(block.width, block.height)
    inputs = tuple(Target(name, block) for name in (unit.query, unit.key_, unit.value))
    output = Target(unit.output, turned, transposed=True, consumer=True)
    return [GroupPlan(f"{unit.key}.joint", "attention", (*inputs, output))]


def heads(unit: Attention) -> list[GroupPlan]:
    """One score a key/value head and its query heads: rows of query, key and value, columns of the output."""
    if not unit.heads:
        return []
    queries = unit.head_size * unit.queries_per_key
    targets = (
        Target(unit.query, Head(queries, "rows")),
        Target(unit.key_, Head(unit.head_size, "rows")),
        Target(unit.value, Head(unit.head_size, "rows")),
        Target(unit.output, Head(queries, "columns"), consumer=True),
    )
    return [GroupPlan(f"{unit.key}.heads", "attention", targets)]


def head_slices(unit: Attention) -> list[GroupPlan]:
    """One score a head and matrix: head-sized slices that come and go matrix by matrix."""
    return [
        GroupPlan(f"{unit.key}.{role.value}", "attention", (target,))
        for group in heads(unit)
        for role, target in zip(unit.linears().values(), group.targets, strict=True)
    ]


def neurons(unit: FeedForward) -> list[GroupPlan]:
    """One score a neuron: its row of up (and gate), its column of down."""
    if not unit.size:
        return []
    rows = tuple(Target(name, Neuron(1, "rows")) for name in (unit.up, unit.gate) if name)
    return [GroupPlan(f"{unit.key}.neurons", "ffn", (*rows, Target(unit.down, Neuron(1, "columns"), consumer=True)))]


def elements(structure: ModelStructure, granularity: Granularity | None = None) -> list[GroupPlan]:
    """One score a weight of every prunable linear."""
    return [plan for unit in structure.units for plan in separate(unit, granularity or Element())]
