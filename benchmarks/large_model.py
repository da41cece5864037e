"""prune compact of a LLaMA of 7 billion parameters, as a user types it: peak memory and seconds, then its reload.

    python benchmarks/large_model.py WORK [--layers 32] [--density 0.5] [--output docs/results/large_model.json]

Random weights in bfloat16, made and written layer by layer, never whole in memory; random whole heads and neurons.
Compaction (its proof and saving included) and reload with one forward are processes of their own. Memory is the peak of
what is theirs, and with the files that the system maps for them, which it may drop. WORK needs 21 GB of a real disk.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from report import report
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from prune_core.folders.loading import structure_of
from prune_core.structure import Unit
from prune_core.testing.sample_masks import unit_masks

GB = 1e9
RELOAD = """
import sys, prune_core, torch
from transformers import AutoModelForCausalLM
with torch.inference_mode():
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
    assert torch.isfinite(model(torch.arange(16)[None]).logits).all()
"""


def shards(model: LlamaForCausalLM) -> Iterator[list[str]]:
    """Names of the parameters, a layer each time, then what is outside the layers."""
    names = [name for name, _ in model.named_parameters()]
    for layer in range(model.config.num_hidden_layers):
        yield [name for name in names if name.startswith(f"model.layers.{layer}.")]
    yield [name for name in names if not name.startswith("model.layers.")]


def write_dense(model: LlamaForCausalLM, folder: Path) -> int:
    """A folder with random weights for a model on the meta device; the bytes of its weights."""
    folder.mkdir(parents=True)
    index: dict[str, str] = {}
    size = 0
    for number, names in enumerate(shards(model)):
        file = f"model-{number:05d}.safetensors"
        tensors = {}
        for name in names:
            shape = model.get_parameter(name).shape
            tensors[name] = torch.ones(shape) if len(shape) == 1 else torch.empty(shape).normal_(std=0.02)
        tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        save_file(tensors, folder / file, {"format": "pt"})
        index |= dict.fromkeys(names, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    whole = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole))
    model.config.architectures, model.config.dtype = [type(model).__name__], torch.bfloat16
    model.config.save_pretrained(folder)
    return size


def write_masks(model: LlamaForCausalLM, density: float, file: Path) -> None:
    """About `density` of the heads and neurons, other ones in each layer; the first keeps none, the second all."""
    generator = torch.Generator().manual_seed(0)

    def kept(unit: Unit) -> list[int]:
        if ".0." in unit.key or ".1." in unit.key:
            return list(range(unit.count)) if ".1." in unit.key else []
        return (torch.rand(unit.count, generator=generator) < density).nonzero().flatten().tolist()

    unit_masks(model, kept).save(file, structure_of(model).sizes())


def watched(*command: str) -> dict[str, float]:
    """Run a command; its seconds and peaks of memory, bytes, read every 50 ms."""
    start, peaks = time.perf_counter(), {"RssAnon": 0, "VmRSS": 0}
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                break
            status = dict(line.split(":", 1) for line in lines)
            for name in peaks.keys() & status.keys():
                peaks[name] = max(peaks[name], int(status[name].split()[0]) * 1024)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gb": round(peaks["RssAnon"] / GB, 2),
        "peak_gb_with_mapped_files": round(peaks["VmRSS"] / GB, 2),
    }


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    dense, masks, compact = (given.work / name for name in ("dense", "masks.safetensors", "compact"))
    config = LlamaConfig(num_hidden_layers=given.layers, intermediate_size=11008, hidden_size=4096)
    _remove(dense, compact)  # an interrupted run left them
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    torch.manual_seed(0)
    parameters, size = sum(p.numel() for p in model.parameters()), write_dense(model, dense)
    write_masks(model, given.density, masks)
    program = str(Path(sys.executable).with_name("prune"))
    found = {
        "what": "prune compact of a LLaMA in bfloat16, and its reload with one forward",
        "parameters": parameters,
        "dense_gb": round(size / GB, 2),
        "compact": watched(program, "compact", str(dense), str(masks), "--output", str(compact)),
        "compact_gb": round(sum(file.stat().st_size for file in compact.glob("*.safetensors")) / GB, 2),
        "reload": watched(sys.executable, "-c", RELOAD, str(compact)),
    }
    _remove(dense, compact)
    masks.unlink()
    report(found, given.output)


if __name__ == "__main__":
    main()
