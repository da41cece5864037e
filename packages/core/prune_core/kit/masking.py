"""MaskingStrategy: everything that strategies with scores and masks share. A subclass says which linears share which
scores (`layout`), and no more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prune_core.errors import RecipeError, StructureError
from prune_core.granularity import Neuron
from prune_core.kit import binarizers, penalties
from prune_core.kit.bounds import earlier_masks, kept_heads, open_weights, pruned_before, touching
from prune_core.kit.config import MaskingConfig
from prune_core.kit.cut import OwnUnits, Ranking, Slice, Units, cut_threshold, sliced_units, stored_weights
from prune_core.kit.gates import draw
from prune_core.kit.masked import Masking, attach, check_own, detach, empties_outputs, plain_linear
from prune_core.kit.pools import REST, Pool, nothing_removed, parted
from prune_core.kit.ranking import in_multiples, shares, with_their_unit
from prune_core.kit.schedules import Schedule
from prune_core.kit.scores import PRIOR, TIES, GroupPlan, ScoreGroup, initial_scores
from prune_core.linears import linear, output_axis
from prune_core.masks import STATE, Mask, MaskSet, bias_mask
from prune_core.strategy import Context, Progress, Strategy
from prune_core.structure import ModelStructure


class PruningState(nn.Module):
    """All that a strategy adds to a model: the groups, and the multipliers of each target density, if there is one."""

    def __init__(self, groups: Sequence[ScoreGroup], densities: int) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.lagrangians = nn.ModuleList(penalties.Lagrangian() for _ in range(densities))


class MaskingStrategy(Strategy):
    """Masks linears while training. Subclass, name the granularities in `layout`, and set `sparse`.

    With a target density the masks are cut, at every step, where what physically remains equals the scheduled density;
    pressure on the scores (a Lagrangian) makes them agree with the cut. With a penalty weight the threshold moves on a
    schedule and the density is what comes of it.
    """

    config: MaskingConfig
    sparse: ClassVar[bool] = False
    """Whether zeros inside heads and neurons that stay are left out on disk, and so do not count."""

    @abstractmethod
    def layout(self, structure: ModelStructure) -> Sequence[GroupPlan]:
        """The groups of scores for the units of `structure` (less the excluded ones)."""

    def cut(self, pool: Pool, density: float, *, exact: bool) -> list[Tensor]:
        """Masks of a pool: the highest scores that physically hold `density`, over all groups or in each ("local")."""
        budget, groups = pool.budget(density), pool.groups
        if self.config.scope == "local" and self.sparse and not exact:  # sorting every weight at every step is slow
            return [binarizers.topk(group.bounded, budget / pool.covered) for group in groups]
        ranking = {
            group.plan.name: self._ranked(group, index / len(groups), exact) for index, group in enumerate(groups)
        }
        if exact and self.sparse:
            return self._stored(pool, ranking, budget)
        threshold = cut_threshold(pool.units, ranking, budget, exact=exact)
        spare = [None if self._gated else group.mask for group in groups]  # written over: of many weights a copy costs
        return [binarizers.above(ranking[g.plan.name], threshold, out) for g, out in zip(groups, spare, strict=True)]

    def prepare(self, context: Context) -> None:
        plans = self.layout(context.structure.without(self.config.exclude))
        if not plans:
            keys = ", ".join(context.structure.keys())
            raise StructureError(f"nothing to prune: the strategy's layout and exclude leave none of {keys}")
        check_own(context.model, plans)
        self._model, self._structure, self._seed = context.model, context.structure, context.seed
        self._progress = Progress(0, context.total_steps)
        groups = [self._group(plan, index / len(plans)) for index, plan in enumerate(plans)]
        self._bound(groups)
        self._pools = self._make_pools(groups)
        for pool in self._pools:
            self.cut(pool, pool.density, exact=False)  # refuses a density that cannot be reached
        state = PruningState(groups, len(self._pools) if self._pressed else 0)
        context.model.add_module(STATE, state.to(next(context.model.parameters()).device))
        for masking in (masking for group in groups for masking in self._maskings(group)):
            attach(context.model, masking)

    def step(self, progress: Progress) -> None:
        self._progress = progress
        at_freeze = self._frozen and not self._past_freeze
        for group in self._groups:
            group.soft, group.frozen = self._gated and not self._frozen, self._frozen
        if not self._past_freeze:
            self._update(exact=at_freeze)

    def penalty(self) -> Tensor:
        zero = self._groups[0].scores.new_zeros(())
        if self._frozen or self.config.binarizer in ("topk", "magnitude"):
            return zero
        if self.config.penalty_weight is None:
            return self._pressure()
        cost = penalties.l0 if self._gated else penalties.l1
        parts = {"attention": self.config.attention_weight, "ffn": self.config.ffn_weight}
        costs = [weight * self._mean(cost, part) for part, weight in parts.items() if self._of(part)]
        return self.config.penalty_weight * self._schedule(0, 1).progress(self._progress) * sum(costs, zero)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        state = {id(parameter) for parameter in self._state.parameters()}
        weights = [p for p in self._model.parameters() if p.requires_grad and id(p) not in state]
        decayed = [p for p in weights if p.ndim > 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "lr": lr, "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
        ]
        scores = [group.scores for group in self._groups if group.scores.requires_grad]
        rate = {"lr": self.config.score_learning_rate, "weight_decay": 0.0}
        if scores:
            groups.append({"params": scores, **rate})
        pressure = {"lr": self.config.pressure_learning_rate, "weight_decay": 0.0, "maximize": True}
        groups.append({"params": list(self._state.lagrangians.parameters()), **pressure})
        return [group for group in groups if group["params"]]

    def masks(self) -> MaskSet:
        if self._gated and not self._frozen:
            kept = [(group, gates > 0) for group, gates in self._gates()]
        else:
            kept = [(group, group.mask > 0) for group in self._groups]
        flat = torch.cat([values.flatten() for _, values in kept]).cpu()  # a device is waited for once
        masks: dict[str, Mask] = {}
        for (group, values), part in zip(kept, flat.split([values.numel() for _, values in kept]), strict=True):
            masks.update(self._group_masks(group, part.view(values.shape)))
        return MaskSet(masks, sparse=self.sparse)

    @property
    def target(self) -> float | None:
        if self.config.target is None:
            return None
        kept = self._untouched + sum(pool.density * pool.total for pool in self._pools)
        share = kept / (self._untouched + sum(pool.total for pool in self._pools))
        return round(share, 12)  # 0.48 again, not 0.4799999999999999

    def settled(self, progress: Progress) -> bool:
        if self._gated or self.config.target is None:  # before the freeze their density is what the scores make of it
            return progress.step >= self._freeze_step_of(progress.total)
        return self._schedule(0.0, 1.0).progress(progress) == 1.0

    def unsharded(self) -> Sequence[str]:
        reason = None
        if self.config.binarizer == "magnitude":
            reason = "reads the weights' magnitudes at every step"
        elif any(group.cost <= len(group.plan.targets) for group in self._groups):
            reason = "has a score for every weight, which every process would hold"
        if reason is not None:
            raise RecipeError(
                f"training.sharded: {type(self).__name__} with binarizer {self.config.binarizer} {reason}: leave "
                "sharded out, or learn scores of blocks, heads or neurons"
            )
        return [STATE]

    @torch.no_grad()
    def finish(self) -> MaskSet:
        if not self._frozen:
            self._settle()
        masks = self.masks()
        for group in self._groups:
            self._fold(group)
            for target in group.plan.targets:
                detach(self._model, target.module)
        delattr(self._model, STATE)
        masks.bake(self._model)
        return masks

    # What follows is private to the kit.

    @property
    def _state(self) -> PruningState:
        state = self._model.get_submodule(STATE)
        assert isinstance(state, PruningState)
        return state

    @property
    def _groups(self) -> list[ScoreGroup]:
        return list(self._state.groups)  # type: ignore[arg-type]

    @property
    def _gated(self) -> bool:
        return self.config.binarizer == "hard_concrete"

    @property
    def _pressed(self) -> bool:
        return self.config.target is not None and self.config.binarizer not in ("topk", "magnitude")

    @property
    def _freeze_step(self) -> float:
        """First step at which masks are final."""
        return self._freeze_step_of(self._progress.total)

    def _freeze_step_of(self, total: int) -> float:
        return float((1 - self.config.cooldown) * total if self.config.freeze else total)

    @property
    def _frozen(self) -> bool:
        return self._progress.step >= self._freeze_step

    @property
    def _past_freeze(self) -> bool:
        return self._progress.step >= self._freeze_step + 1

    def _schedule(self, start: float, end: float) -> Schedule:
        return Schedule(start, end, self.config.warmup, self.config.cooldown, self.config.schedule)

    def _maskings(self, group: ScoreGroup) -> Iterator[Masking]:
        """Of each linear that has to do with the mask; a closed neuron that keeps its bias still moves its score."""
        scaled = group.plan.scaled() if self._gated else group.plan.targets
        narrows = group.plan.narrows and (self._gated or self.config.mask_biases)
        for target in group.plan.targets if narrows else scaled:
            yield Masking(group, target, self.config.mask_biases, target in scaled, narrows)

    def _group(self, plan: GroupPlan, shift: float) -> ScoreGroup:
        weights = [plain_linear(self._model, target.module).weight for target in plan.targets]
        for target, weight in zip(plan.targets, weights, strict=True):
            try:
                target.granularity.score_shape(tuple(weight.shape))
            except StructureError as error:
                raise StructureError(f"{target.module}: {error}") from None
        start = 2.5 if self._gated else 0.0
        movement = self.config.target is not None and not self._gated  # with a penalty weight: the papers' start
        scores = initial_scores(weights, plan, start, PRIOR if movement else TIES, shift)
        cost = sum(weight.numel() for weight in weights) // scores.numel()
        group = ScoreGroup(plan, scores, cost, gated=self._gated)
        group.scores.requires_grad_(self.config.binarizer != "magnitude")
        return group

    def _bound(self, groups: Sequence[ScoreGroup]) -> None:
        """Lay what earlier runs decided on the groups, as bounds."""
        rewind, within = self.config.rewind, self.config.within
        if rewind is not None:
            weights = kept_heads(earlier_masks(rewind, "rewind", self._model), self._structure)
            for group in groups:
                group.held = touching(group.plan, weights, tuple(group.scores.shape))
        if within is not None:
            weights = open_weights(earlier_masks(within, "within", self._model))
            for group in groups:
                group.gone = pruned_before(group.plan, weights, tuple(group.scores.shape))

    def _make_pools(self, groups: Sequence[ScoreGroup]) -> list[Pool]:
        """The parts with a density of their own and the rest; StructureError where masks can remove nothing of one."""
        self._deciding: dict[str, Slice] = {}
        self._untouched = 0
        parts, rest = self.config.part_densities, 1.0 if self.config.target is None else self.config.target
        pools = []
        for glob, members in parted(self._structure, parts).items():
            inside = {name for unit in members for name in unit.linears()}
            own = tuple(group for group in groups if group.plan.targets[0].module in inside)
            sliced = [sliced_units(self._model, unit, own) for unit in members]
            owners = tuple(units for units in sliced if units is not None)
            self._deciding |= {one.group.plan.name: one for units in owners for one in reversed(units.slices)}
            units: tuple[Units, ...] = tuple(OwnUnits(group) for group in own) if self.sparse else owners
            total = sum(linear(self._model, name).weight.numel() for name in inside)
            if glob == REST and not own and self.config.density in (None, 1):
                self._untouched = total  # the rest is excluded, and nothing was asked of it
                continue
            if not units and (own or glob != REST):
                raise StructureError(nothing_removed(glob))
            pools.append(Pool(glob, parts.get(glob, rest), total, members, own, units))
            if self.config.target is not None:
                pools[-1].check_start()
        return pools

    def _ranked(self, group: ScoreGroup, offset: float, exact: bool) -> Tensor:
        """The scores of a group as the cut compares them with those of the others."""
        scores = group.scores.detach()
        if self.config.scope == "local":
            scores = shares(group.ranked(scores), offset)
        if not self.sparse and group.plan.name in self._deciding:
            scores = with_their_unit(scores, self._deciding[group.plan.name])
        if not self.sparse and exact and isinstance(group.plan.targets[0].granularity, Neuron):
            scores = in_multiples(group.ranked(scores), getattr(self.config, "neuron_multiple", 1))
        return group.ranked(scores)

    def _stored(self, pool: Pool, ranking: Ranking, budget: float) -> list[Tensor]:
        """Masks of what is stored in the end where zeros are left out: what lies in emptied heads and neurons goes."""
        weights = [one for unit in pool.members for one in stored_weights(self._model, unit, pool.groups)]
        threshold = cut_threshold(weights, ranking, budget)
        masks = {group.plan.name: torch.zeros_like(group.mask) for group in pool.groups}
        for one in weights:
            mask = masks[one.slice.group.plan.name]
            mask.copy_(torch.maximum(mask, one.stored(ranking, threshold).to(mask)))
        return list(masks.values())

    @torch.no_grad()
    def _update(self, *, exact: bool) -> None:
        """The masks of this step from the scores."""
        if self.config.binarizer == "magnitude":
            self._measure_magnitudes()
        if self._gated:
            self._update_gates(exact)
            return
        if self.config.target is None:
            cut = self._schedule(0.0, self.config.threshold).value(self._progress)
            rule = binarizers.threshold if self.config.binarizer == "threshold" else binarizers.sigmoid_threshold
            kept = [(group, rule(group.bounded, cut, self.config.floor)) for group in self._groups]
        else:
            self._aim()
            kept = self._cut_all(self._scheduled, exact=exact)
        for group, mask in kept:
            group.mask.copy_(group.cut_to(mask))

    def _settle(self) -> None:
        """The final masks at once, for a training that ends before they were frozen."""
        self._progress = Progress(self._progress.total, self._progress.total)
        for group in self._groups:
            group.soft, group.frozen = False, True
        self._update(exact=True)

    def _update_gates(self, exact: bool) -> None:
        if exact:
            for group, kept in self._gates():
                group.mask.copy_(kept * group.soft_mean().clamp_min(1e-3))
            return
        self._aim()
        draw([group.noise for group in self._groups], self._seed, self._progress.step)

    def _gates(self) -> list[tuple[ScoreGroup, Tensor]]:
        """Gates that stay: those of the highest scores, or with a penalty weight those that are open."""
        if self.config.target is None:
            return [(group, (group.soft_mean() > 0).float()) for group in self._groups]
        return self._cut_all(lambda pool: pool.density, exact=True)

    def _cut_all(self, density: Callable[[Pool], float], *, exact: bool) -> list[tuple[ScoreGroup, Tensor]]:
        """Each group with its mask, every pool at a density of its own."""
        return [
            pair
            for pool in self._pools
            for pair in zip(pool.groups, self.cut(pool, density(pool), exact=exact), strict=True)
        ]

    def _scheduled(self, pool: Pool) -> float:
        """The density of a pool now."""
        return self._schedule(pool.start, pool.density).value(self._progress)

    def _aim(self) -> None:
        """Move the target of the pressure: linearly, and there after two thirds of the time that masks move."""
        warmup, cooldown = self.config.warmup, self.config.cooldown
        rest = 1 - warmup - 2 / 3 * (1 - warmup - cooldown)
        for pool, lagrangian in self._pressed_pools():
            ramp = Schedule(pool.share(pool.start), pool.share(pool.density), warmup, rest, "linear")
            lagrangian.target.fill_(ramp.value(self._progress))

    def _pressed_pools(self) -> Iterator[tuple[Pool, penalties.Lagrangian]]:
        return zip(self._pools, self._state.lagrangians, strict=False)  # type: ignore[arg-type]  # none without pressure

    def _pressure(self) -> Tensor:
        """Of each pool, on the share of its weights under masks that is open, by the weights of the parts."""
        count = binarizers.open_probability if self._gated else penalties.open_count
        pressure = self._groups[0].scores.new_zeros(())
        for pool, press in self._pressed_pools():
            if whole := sum(self._cost(group) * group.scores.numel() for group in pool.groups):
                spent = penalties.spent(((self._cost(group), group.bounded) for group in pool.groups), count)
                pressure = pressure + press(spent / whole)
        return pressure

    def _cost(self, group: ScoreGroup) -> float:
        """What one open score of a group costs."""
        weights = {"attention": self.config.attention_weight, "ffn": self.config.ffn_weight}
        return group.cost * weights[group.plan.part]

    def _measure_magnitudes(self) -> None:
        for group in self._groups:
            weights = [linear(self._model, target.module).weight for target in group.plan.targets]
            shape = group.scores.shape
            sizes = [
                t.orient(t.granularity.reduce(w.abs())).reshape(shape)
                for t, w in zip(group.plan.targets, weights, strict=True)
            ]
            group.scores.copy_(torch.stack(sizes).mean(dim=0))

    def _of(self, part: str) -> list[ScoreGroup]:
        return [group for group in self._groups if group.plan.part == part]

    def _mean(self, cost: Callable[[Tensor], Tensor], part: str) -> Tensor:
        return torch.stack([cost(group.bounded) for group in self._of(part)]).mean()

    def _group_masks(self, group: ScoreGroup, kept: Tensor) -> dict[str, Mask]:
        found: dict[str, Mask] = {}
        for target in group.plan.targets:
            layer = linear(self._model, target.module)
            shape, values = tuple(layer.weight.shape), target.orient(kept).contiguous()
            found[f"{target.module}.weight"] = Mask(target.granularity, values, shape)
            if layer.bias is not None and self.config.mask_biases and empties_outputs(target.granularity, layer):
                found[f"{target.module}.bias"] = bias_mask(target.granularity, values, shape, output_axis(layer))
        return found

    def _fold(self, group: ScoreGroup) -> None:
        """Multiply a kept gate's soft value into the weights that were scaled by it."""
        for target in group.plan.scaled() if self._gated else ():
            weight = linear(self._model, target.module).weight
            weight.copy_(target.granularity.apply(weight, target.orient(group.mask).to(weight.dtype)))
