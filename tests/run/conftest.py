"""Tiny models with data of their own, runs on them in this process, and runs in processes that can be killed."""

import gc
import multiprocessing
import os
import random
import socket
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from prune_core.runs.configuring import validated
from prune_core.runs.run import run as run_recipe

LABELS = ("bad", "good", "neutral")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "a", "the", "very", "lon", "##g", "##er", *LABELS]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
STRATEGIES = {
    "hybrid": {"attention_block": [8, 8], "density": 0.5},
    "structured": {"density": 0.5},
    "block": {"attention_block": [8, 8], "ffn_block": [8, 8], "density": 0.4},
    "unstructured": {"density": 0.3},
}
TRAINING = {
    "max_steps": 8,
    "batch_size": 8,
    "save_steps": 3,
    "logging_steps": 1,
    "learning_rate": 1e-3,
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _quick_collection():
    """A Trainer collects garbage at its end: that need not go through everything that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Data sets are cached where pytest throws them away, here and in child processes."""
    folder = str(tmp_path_factory.mktemp("cache"))
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    patch.setenv("HF_DATASETS_CACHE", folder)
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("OMP_NUM_THREADS", "1")
    yield
    patch.undo()


def tokenizer(order=WORDS):
    """Of these words, numbered in this order."""
    words = Tokenizer(models.WordPiece({word: index for index, word in enumerate(order)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return BertTokenizerFast(tokenizer_object=words, model_max_length=24)


def _labels():
    return {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}


def write_bert(folder, *, seed=0, **changes):
    """A BERT with a head for the three labels; dropout as BERT has it, so that random states matter."""
    torch.manual_seed(seed)
    sizes = SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 24} | changes
    config = BertConfig(**({} if "num_labels" in changes else _labels()), **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def write_distilbert(folder, *, seed=0):
    """A DistilBERT with the same vocabulary, labels, hidden size and layers as the BERT."""
    torch.manual_seed(seed)
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 24}
    config = DistilBertConfig(vocab_size=len(WORDS), **_labels(), **sizes)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def write_vit(folder, *, seed=0, **changes):
    torch.manual_seed(seed)
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, **_labels(), **(SIZES | dropout | changes))
    ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": 8, "width": 8}
    ViTImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5], size=size).save_pretrained(folder)
    return str(folder)


def _write_texts(path, rows, seed):
    generator = random.Random(seed)
    lines = ["sentence,label"]
    for row in range(rows):
        label = LABELS[row % 3]
        words = generator.choices(("film", "a", "the", "very", "longer"), k=generator.randint(1, 12))
        words.insert(generator.randint(0, len(words)), label)
        lines.append(f"{' '.join(words)},{label}")
    path.write_text("\n".join(lines) + "\n")


def _write_images(path, rows, seed):
    generator = np.random.default_rng(seed)
    lines = ["image,label"]
    for row in range(rows):
        pixels = generator.integers(0, 90, (8, 8), dtype=np.uint8)
        pixels[:, 3 * (row % 3) : 3 * (row % 3) + 2] += 150
        name = f"{path.stem}-{row}.png"
        Image.fromarray(pixels).save(path.parent / name)
        lines.append(f"{name},{LABELS[row % 3]}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Family -> the recipe's model and task: a tiny model and csv files with string labels."""
    folder = tmp_path_factory.mktemp("inputs")
    found = {}
    for family, task, write, write_data in (
        ("bert", "text-classification", write_bert, _write_texts),
        ("vit", "image-classification", write_vit, _write_images),
    ):
        for name, rows, seed in (("train", 42, 0), ("validation", 18, 1)):
            write_data(folder / f"{family}-{name}.csv", rows, seed)
        found[family] = {
            "model": write(folder / family),
            "task": {
                "name": task,
                "train_file": str(folder / f"{family}-train.csv"),
                "validation_file": str(folder / f"{family}-validation.csv"),
            },
        }
    return found


@pytest.fixture(scope="session")
def recipe(inputs):
    """`recipe(output, family="bert", strategy="structured", training={...}, ...)`: a short run's recipe."""

    def make(output, *, family="bert", strategy="structured", options=None, training=None, **others):
        data = {
            **inputs[family],
            "strategy": {"name": strategy, **STRATEGIES[strategy], **(options or {})},
            "training": TRAINING | (training or {}),
            "measure": {"batch_size": 1, "length": 8, "rounds": 3},
            "device": "cpu",
            "output": str(output),
        }
        return validated(data | others)

    return make


@pytest.fixture(scope="session")
def finished(recipe, tmp_path_factory):
    """`finished(family, strategy)`: (folder, manifest) of a run to its end; not to be changed."""
    done = {}

    def get(family="bert", strategy="structured"):
        if (family, strategy) not in done:
            folder = tmp_path_factory.mktemp("finished") / f"{family}-{strategy}"
            done[family, strategy] = folder, run_recipe(recipe(folder, family=family, strategy=strategy))
        return done[family, strategy]

    return get


@pytest.fixture(scope="session")
def weights():
    """`weights(folder)`: name -> tensor of a model folder or a file of masks."""

    def get(path):
        path = Path(path)
        return load_file(path / "model.safetensors" if path.is_dir() else path)

    return get


@pytest.fixture(scope="session")
def same_result(weights):
    """`same_result(one, other)`: whether two runs left the same masks, masked model and compact model, bit for bit."""

    def get(one, other):
        for name in ("masks.safetensors", "masked", "model"):
            a, b = weights(Path(one) / name), weights(Path(other) / name)
            assert a.keys() == b.keys(), name
            different = [key for key in a if not torch.equal(a[key], b[key])]
            assert different == [], f"{name}: {different}"
        return True

    return get


class Children:
    """Runs in processes of their own, forked from a server that has imported everything already."""

    PRELUDE = (
        "import gc, os, resource, signal\nfrom pathlib import Path\nimport prune_core.runs.run as life\ngc.freeze()\n"
    )

    def __init__(self, folder):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["prune_core.runs.run", "prune_core.folders.loading", "transformers", "datasets"]
        )
        self.folder = folder
        self.number = 0

    def start(self, recipe, *, resume=False, before="", environment=None):
        """Start `run(recipe)` in a child; `before` is code to execute there first. Its error goes to a file."""
        self.number += 1
        path = self.folder / f"recipe-{self.number}.yaml"
        path.write_text(recipe.dump())
        error = self.folder / f"error-{self.number}"
        code = (
            f"{self.PRELUDE}os.environ.update({environment or {}!r})\n{before}\n"
            "from prune_core.recipe import Recipe\n"
            "try:\n"
            f"    life.run(Recipe.load(Path({str(path)!r})), resume={resume})\n"
            "except BaseException as error:\n"
            f"    Path({str(error)!r}).write_text(type(error).__name__ + ': ' + str(error))\n"
            "    os._exit(3)\n"
        )
        process = self.context.Process(target=exec, args=(code, {"__name__": "child"}))
        process.error = error
        process.start()
        return process

    def start_pair(self, recipe, **options):
        """Start the two processes of one run, as torchrun would."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        ranks = [place | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
        return [self.start(recipe, environment=rank, **options) for rank in ranks]

    def finish(self, recipe, **options):
        """Run a child to its end: its exit code, and its error ("" for none)."""
        return self.end(self.start(recipe, **options))

    def finish_pair(self, recipe, **options):
        """Run two processes to their end: exit code and error of each."""
        return [self.end(process) for process in self.start_pair(recipe, **options)]

    @staticmethod
    def end(process):
        """Exit code and error of a child, at its end."""
        process.join(200)
        assert process.exitcode is not None, "the child did not end"
        return process.exitcode, process.error.read_text() if process.error.exists() else ""

    @staticmethod
    def wait(process, condition, seconds=200):
        """Wait until `condition()` holds or the child has ended."""
        end = time.monotonic() + seconds
        while process.is_alive() and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.002)
        return condition()


@pytest.fixture(scope="session")
def children(tmp_path_factory, cache):
    if "forkserver" not in multiprocessing.get_all_start_methods() or os.name != "posix":
        pytest.skip("processes that can be killed need fork")
    return Children(tmp_path_factory.mktemp("children"))


@pytest.fixture(scope="session", name="write_bert")
def _write_bert():
    return write_bert


@pytest.fixture(scope="session", name="write_distilbert")
def _write_distilbert():
    return write_distilbert


@pytest.fixture(scope="session")
def still(tmp_path_factory):
    """Without dropout: two processes draw other numbers than one."""
    folder = tmp_path_factory.mktemp("still") / "model"
    return write_bert(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="session")
def forty(inputs):
    """40 rows are 5 batches of 8, or 10 of 4: no batch is filled up."""
    return {**inputs["bert"]["task"], "max_train_samples": 40, "max_validation_samples": 15}


@pytest.fixture(scope="session")
def other_words():
    """`other_words(folder)`: gives a model another numbering of the same words."""

    def write(folder):
        tokenizer([*WORDS[:5], *reversed(WORDS[5:])]).save_pretrained(folder)

    return write
