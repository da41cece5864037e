"""`import prune_core`, before transformers or after it, is what it takes to load; without it loading fails loudly."""

import os
import subprocess
import sys

import pytest
import torch

from prune_core.compaction import compact
from prune_core.embeddings.bits import round_embeddings
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.granularity import Element
from prune_core.masks import Mask, MaskSet
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_model

LOAD = """
for folder in {folders!r}:
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        print("loaded", sum(parameter.numel() for parameter in model.parameters()))
    except Exception as error:
        print("refused", type(error).__name__)
"""


def python(imports, folders):
    code = imports + LOAD.format(folders=[str(folder) for folder in folders])
    quiet = {"TRANSFORMERS_VERBOSITY"}  # a command line that ran in this process before may have set it
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "imports",
    ["import prune_core, transformers", "from transformers import AutoModel; import transformers, prune_core"],
    ids=["before transformers", "after transformers"],
)
def test_the_order_of_imports_does_not_matter(imports, compact_folder):
    written = compact_folder("bert")
    size = sum(parameter.numel() for parameter in written.model.parameters())
    assert python(imports, [written.folder]).stdout.split() == ["loaded", str(size)]


def test_without_the_import_every_kind_of_compact_folder_is_refused(compact_folder, tmp_path):
    """Sizes that differ are refused by themselves; where none does, missing weights would be left at random."""
    model = tiny_model("bert")
    stubs = unit_masks(model, lambda unit: [] if unit.key == "layer.0.ffn" else None)
    save_compact(compact(model, stubs), tmp_path / "stub of the feed-forward part")
    stubs = unit_masks(model, lambda unit: [] if unit.key == "layer.1.attention" else None)
    save_compact(compact(model, stubs), tmp_path / "stub of attention")
    name, weight = next(structure_of(model).weights(model))
    one = Mask(Element(), torch.rand(weight.shape) < 0.9, tuple(weight.shape))
    save_compact(compact(model, MaskSet({name: one}, sparse=True)), tmp_path / "one sparse weight")
    words = compact(model, MaskSet({}))
    round_embeddings(words.model)
    save_compact(words, tmp_path / "word embeddings in 8 bits")
    folders = [compact_folder("bert").folder, compact_folder("bert", sparse=True).folder, *sorted(tmp_path.iterdir())]
    done = python("import transformers", folders)
    assert done.stdout.splitlines() == ["refused RuntimeError"] * 6, done.stdout
    assert "Unknown quantization type, got prune" in done.stderr
