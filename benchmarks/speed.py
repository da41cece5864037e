"""Every figure of speed and memory in docs/results that needs no trained model, measured anew: on the CPU, or on CUDA.

    python benchmarks/speed.py cpu|cuda [NAME ...] [--quick] [--work runs/speed] [--results docs/results]

Each is a process of its own. One that fails is named at the end, its file stays as it was, and the others go on.
--quick takes tiny settings: it shows that all of it runs, and its figures, which say nothing, go to WORK.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from report import keep

HERE = Path(__file__).resolve().parent
NETWORKS = "prune bench --json --networks {here}"
TWO = "--threads 2 --batch-sizes 8,1 --runtimes torch,openvino"
BERT = "{work}/bert/pruned --baseline {work}/bert/dense --json"
LLAMA = "{work}/llama/pruned --baseline {work}/llama/dense --json"
DTYPES = "--dtypes float32,tf32,bfloat16"
TINY = "--rounds 3 --batch-sizes 1 --lengths 8"

CPU = {
    "help_time": ("help_time.py", "--rounds 2"),
    "first_step": ("first_step.py", "--quick"),
    "step_overhead": ("step_overhead.py --rounds 40", "--quick --rounds 2 --lengths 24"),
    "freed_memory": ("freed_memory.py", "--rounds 1 --batch-sizes 1"),
    "compaction": ("compaction.py", ""),
    "large_model": ("large_model.py {work}/large", "--layers 1"),
    "reload": ("reload.py", "--rounds 2 --layers 1"),
    "embedding_bits": ("embedding_bits.py {work}/embeddings", "--steps 1"),
    "alignment": ("alignment.py", "--rounds 3 --layers 1"),
    "sparse_forms": ("sparse_forms.py", "--rounds 2 --layers 1"),
    "random_networks": (f"{NETWORKS}/random_networks.json {TWO} --rounds 21", TINY),
    "bar_networks": (f"{NETWORKS}/bar_networks.json {TWO} --rounds 31", TINY),
    "published_networks": (f"{NETWORKS}/published_networks.json {TWO} --rounds 11", f"{TINY} --runtimes torch"),
    "decode": (f"prune bench {LLAMA} --threads 2 --dtypes float32 --batch-sizes 1 --new-tokens 16 --rounds 9", TINY),
    "explain": (f"prune explain {BERT} --threads 2", "--length 8 --rounds 3"),
    "explain_one": (f"prune explain {BERT} --threads 2 --batch-size 1", "--length 8 --rounds 3"),
}
CUDA = {
    "published_networks_cuda": (
        f"{NETWORKS}/published_networks.json --batch-sizes 128 --lengths 384 {DTYPES} --rounds 11",
        TINY,
    ),
    "published_networks_cuda_one": (
        f"{NETWORKS}/published_networks.json --batch-sizes 1 --lengths 128 {DTYPES} --runtimes torch,cuda-graphs",
        TINY,
    ),
    "step_overhead_cuda": ("step_overhead.py --random", "--quick --rounds 2 --lengths 24"),
    "sparse_forms_cuda": ("sparse_forms.py", "--rounds 2 --layers 1"),
    "alignment_cuda": ("alignment.py", "--rounds 3 --layers 1"),
    "reload_cuda": ("reload.py", "--rounds 2 --layers 1"),
    "runtimes_cuda": (
        f"prune bench {BERT} --batch-sizes 32,1 --dtypes float32,bfloat16 --runtimes torch,cuda-graphs",
        TINY,
    ),
    "compile_cuda": (f"prune bench {BERT} --batch-sizes 32,1 --dtypes bfloat16 --runtimes torch,compile", TINY),
    "decode_cuda": (f"prune bench {LLAMA} --dtypes bfloat16 --batch-sizes 8,1 --new-tokens 32", TINY),
    "explain_cuda": (f"prune explain {BERT} --dtype bfloat16 --batch-size 32", "--length 8 --rounds 3"),
    "explain_cuda_one": (f"prune explain {BERT} --dtype bfloat16 --batch-size 1", "--length 8 --rounds 3"),
}
"""Name of a file of results -> what writes it, and what --quick adds; those with bars come first."""
LISTS = {"cpu": CPU, "cuda": CUDA}
ANYWHERE = ("help_time", "first_step", "freed_memory", "compaction", "large_model", "embedding_bits")
"""Of the CPU, whatever there is: these know no --device."""


def command(name: str, device: str, quick: bool, work: Path) -> list[str]:
    """The words of a measurement: a script of this folder, or prune."""
    first, *words = shlex.split(" ".join(LISTS[device][name] if quick else LISTS[device][name][:1]))
    program = [sys.executable, *(("-m", "prune_cli") if first == "prune" else (str(HERE / first),))]
    words = [word.format(here=HERE, work=work) for word in words]
    return [*program, *words, *([] if name in ANYWHERE else ["--device", device])]


def measure(words: list[str], output: Path) -> None:
    """Run it; it writes `output`, or prints what is kept there."""
    if "--json" in words:
        keep(output, *words)
    else:
        subprocess.run([*words, "--output", str(output)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", choices=LISTS)
    parser.add_argument("names", nargs="*", help="of files of results, without .json; all by default")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/speed"))
    parser.add_argument("--results", type=Path, default=HERE.parent / "docs" / "results")
    given = parser.parse_args()
    names = given.names or list(LISTS[given.device])
    if unknown := set(names) - LISTS[given.device].keys():
        parser.error(
            f"no measurement is called {', '.join(sorted(unknown))}; there are {', '.join(LISTS[given.device])}"
        )
    work = given.work / "tiny" if given.quick else given.work
    results = work if given.quick else given.results
    work.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        words = command(name, given.device, given.quick, work)
        print(shlex.join(words), flush=True)
        try:
            if "--baseline" in words:
                _make_model(Path(words[words.index("--baseline") + 1]).parent, given.quick)
            measure(words, results / f"{name}.json")
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            failed.append(f"{name}: {error}")
    if failed:
        sys.exit("\n".join(["not measured:", *failed]))


def _make_model(folder: Path, tiny: bool) -> None:
    """The models of random_models.py of that name, unless they are there."""
    if not (folder / "pruned").is_dir():  # the last that is written
        subprocess.run([sys.executable, str(HERE / "random_models.py"), str(folder), *["--tiny"] * tiny], check=True)


if __name__ == "__main__":
    main()
