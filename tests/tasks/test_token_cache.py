"""Token features are kept on disk, for other processes too, and made anew when what decides them changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from tokenizers import normalizers

import prune_core.tasks.tokens
from prune_core.runs.configuring import validated
from prune_core.runs.preparation import make_job

WORDS = [["good", "film"], ["a", "bad", "film"], ["the", "very", "long", "film"], ["bad"]]
ROWS = {
    "text-classification": [{"text": " ".join(words), "label": "ab"[row % 2]} for row, words in enumerate(WORDS)],
    "token-classification": [{"tokens": words, "tags": ["O", "B-X", "O", "O"][: len(words)]} for words in WORDS],
    "multiple-choice": [{"context": "a", "choices": words[:1] * 2, "label": 1} for words in WORDS],
}


def recipe(name: str, model: str, folder: Path, **others) -> dict:
    folder.mkdir(exist_ok=True)
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS[name])))
    return {"model": model, "task": {"name": name, "train_file": str(file), "validation_file": str(file), **others}}


def kept(data: dict) -> str:
    """The file that the training features of a recipe's task lie in."""
    (file,) = make_job(validated(data), "cpu").task.train().cache_files
    return file["filename"]


@pytest.mark.parametrize("name", ROWS)
def test_features_are_found_again_until_something_that_decides_them_changes(name, tmp_path, text_model, monkeypatch):
    data = recipe(name, text_model(), tmp_path)
    first = kept(data)
    task = make_job(validated(data), "cpu").task
    task.processor(["good", "bad film"], padding=True, truncation=True, max_length=3)  # using a tokenizer changes it
    assert task.train().cache_files[0]["filename"] == first
    assert kept({**data, "training": {"seed": 3, "learning_rate": 1.0}}) == first

    changed = [kept({**data, "task": {**data["task"], "max_length": 4}})]
    with monkeypatch.context() as patch:
        patch.setattr(prune_core.tasks.tokens, "__version__", "9.9")
        changed.append(kept(data))
    task.processor.backend_tokenizer.normalizer = normalizers.Lowercase()
    task.processor.save_pretrained(data["model"])
    changed.append(kept(data))
    assert kept(data) == changed[-1]
    file = Path(data["task"]["train_file"])
    file.write_text("\n".join(file.read_text().splitlines()[::-1]))
    changed.append(kept(data))
    assert len({first, *changed}) == 5


def test_another_process_makes_nothing_anew(tmp_path, text_model):
    data = {
        name: recipe(name, text_model(name=name), tmp_path / name) for name in ROWS if (tmp_path / name).mkdir() or True
    }
    mine = {name: kept(one) for name, one in data.items()}
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    before = {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}
    code = (
        "import json, sys\nfrom prune_core.runs.configuring import validated\n"
        "from prune_core.runs.preparation import make_job\n"
        "for name, one in json.loads(sys.argv[1]).items():\n"
        "    print(name, make_job(validated(one), 'cpu').task.train().cache_files[0]['filename'])\n"
    )
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, json.dumps(data)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert dict(line.split(maxsplit=1) for line in done.stdout.splitlines()) == mine
    assert {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.arrow")} == before
