"""Grid: what `prune bench` measures, every combination of it; Setting: one of these. Nothing heavy is imported here."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from prune_core.errors import RecipeError
from prune_core.fields import Fields
from prune_core.recipe import DType, explain

Attention = Literal["eager", "sdpa", "flash_attention_2"]
Runtime = Literal["torch", "compile", "cuda-graphs", "sparse", "torch-export", "onnx", "openvino"]
Phase = Literal["forward", "prefill", "decode"]

EXPORTED: frozenset[Runtime] = frozenset(("torch-export", "onnx", "openvino"))
"""Runtimes that a model is exported to."""

TRACED: frozenset[Runtime] = frozenset(("compile", "cuda-graphs"))
"""Runtimes that cannot look at what is in a mask."""

_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Setting:
    """What all sides of one measurement have in common.

    `length` is None where the texts are as long as those of a data set; `attention` where each model keeps its own.
    """

    batch_size: int
    length: int | None
    attention: Attention | None = None
    dtype: DType = "float32"
    runtime: Runtime = "torch"
    phase: Phase = "forward"
    new_tokens: int = 0

    @property
    def produced(self) -> int:
        """Of what throughput counts: tokens of a batch where it decodes, examples elsewhere."""
        return self.batch_size * (self.new_tokens if self.phase == "decode" else 1)


class Grid(Fields):
    """Every combination of what is given here is measured, all models in the same way."""

    batch_sizes: tuple[_Count, ...] = Field((8,), description="Examples a batch.")
    lengths: tuple[_Count, ...] = Field((128,), description="Tokens an example (text models).")
    lengths_of: str | None = Field(None, description="Task or file of texts whose lengths are taken instead.")
    attention: tuple[Attention, ...] = Field((), description="Attention of all models; by default each one's own.")
    dtypes: tuple[DType, ...] = Field(
        ("float32",), description="Arithmetic; tf32 is float32 with matrix products in TF32."
    )
    runtimes: tuple[Runtime, ...] = Field(("torch",), description="What computes all models; torch is plain eager.")
    new_tokens: int | None = Field(
        None, ge=1, description="Prefill, and decoding of so many tokens, instead of a forward pass."
    )
    rounds: int = Field(20, ge=3, description="Interleaved rounds that count.")
    threads: int | None = Field(None, ge=1, description="Threads of the CPU; by default as many as torch takes.")

    @classmethod
    def parse(cls, data: dict[str, Any], source: str = "flags") -> "Grid":
        """Validate plain data. RecipeError listing every wrong field at once."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RecipeError(explain(error, cls, source)) from error

    @model_validator(mode="after")
    def _agrees(self) -> "Grid":
        if not (self.batch_sizes and self.lengths and self.dtypes and self.runtimes):
            raise ValueError("batch_sizes, lengths, dtypes and runtimes need one entry each at least")
        if self.lengths_of is not None and "lengths" in self.model_fields_set:
            raise ValueError("give lengths or the data set whose lengths are taken (lengths_of), not both")
        if "cuda-graphs" in self.runtimes and (self.lengths_of is not None or self.new_tokens is not None):
            raise ValueError("a CUDA graph is of one shape: give lengths, and neither lengths_of nor new_tokens")
        if "sparse" in self.runtimes and self.new_tokens is not None:
            raise ValueError("sparse chooses for a forward pass, not for steps of one token: leave new_tokens out")
        exported = sorted(EXPORTED.intersection(self.runtimes))
        if exported and (self.new_tokens is not None or set(self.dtypes) != {"float32"}):
            raise ValueError(f"{exported[0]} runs a forward pass in float32: leave new_tokens and other dtypes out")
        return self

    def at_most(self, length: int) -> "Grid":
        """The same with texts that are no longer, where nobody said how long they shall be."""
        if "lengths" in self.model_fields_set:
            return self
        return self.model_copy(update={"lengths": tuple(min(one, length) for one in self.lengths)})

    def settings(self) -> Iterator[Setting]:
        """Each combination; those with the same copies of the models follow one another."""
        lengths: tuple[int | None, ...] = (None,) if self.lengths_of is not None else self.lengths
        phases: tuple[Phase, ...] = ("prefill", "decode") if self.new_tokens else ("forward",)
        ordered = product(self.dtypes, self.attention or (None,), self.runtimes, self.batch_sizes, lengths, phases)
        for dtype, attention, runtime, batch_size, length, phase in ordered:
            yield Setting(batch_size, length, attention, dtype, runtime, phase, self.new_tokens or 0)
