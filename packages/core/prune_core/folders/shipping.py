"""A compact folder with a modelling file of its own, proven by a process that cannot import prune_core."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prune_core.compactor import Compaction
from prune_core.errors import VerificationError
from prune_core.files import replacing
from prune_core.folders.card import write_card
from prune_core.folders.portable import MODULE, make_portable
from prune_core.plugins import Plugins
from prune_core.verification.verify import Expected, outputs, tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROOF = f"""
from __future__ import annotations
import sys
sys.modules["prune_core"] = None  # an import of it would fail
import torch
from torch import Tensor
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_class_from_dynamic_module
{inspect.getsource(tensors)}
folder, name, dtype, inputs, outputs, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
model = get_class_from_dynamic_module(name, folder).from_pretrained(folder, dtype=dtype)
with torch.inference_mode():
    found = [one.float().contiguous() for one in tensors(model(**load_file(inputs)).values())]
save_file({{str(index): one.clone() for index, one in enumerate(found)}}, outputs)
"""
_UNWRITTEN = "no model was written; leave --portable out"


@contextmanager
def portably(
    folder: Path,
    plugins: Plugins,
    compaction: Compaction,
    batches: Sequence[Mapping[str, Tensor]],
    source: str | Path | None = None,
) -> Iterator[Path]:
    """A draft of `folder` to save the compact model to, which then gets its file and takes the place of `folder`.

    Before it does, a process that cannot import prune_core loads it. VerificationError, and nothing is written, where
    its outputs on the first of `batches` are not the model's. `source` is the dense model, for the card.
    """
    with replacing(folder) as draft:
        yield draft
        make_portable(draft, plugins)
        if (draft / f"{MODULE}.py").is_file():
            write_card(draft, compaction, source)
            _prove(draft, compaction.model, batches[0])


def _prove(folder: Path, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    expected = Expected.of(outputs(model, [batch]), model.dtype)
    with tempfile.TemporaryDirectory() as place:
        asked, answered = Path(place) / "inputs.safetensors", Path(place) / "outputs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in batch.items()}, asked)
        told = [str(folder), f"{MODULE}.{type(model).__name__}", str(model.dtype).removeprefix("torch."), str(asked)]
        done = subprocess.run(
            [sys.executable, "-c", _PROOF, *told, str(answered), str(torch.get_num_threads())],
            env={**os.environ, "HF_MODULES_CACHE": place},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise VerificationError(f"--portable: the folder does not load without prune_core: {last}; {_UNWRITTEN}")
        found = load_file(answered)
    if len(found) != len(expected.outputs):
        raise VerificationError(
            f"--portable: loaded without prune_core the model puts out {len(found)} tensors, here "
            f"{len(expected.outputs)}; {_UNWRITTEN}"
        )
    difference, allowed = expected.furthest([found[str(index)] for index in range(len(found))])
    if not difference <= allowed:
        raise VerificationError(
            f"--portable: loaded without prune_core the model's outputs differ by {difference:.2e}; {_UNWRITTEN}"
        )
