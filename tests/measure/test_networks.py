"""Networks known by their sizes: what is built, what it is measured against, and what is refused."""

import json
from pathlib import Path

import pytest

from prune_core.bench import networks
from prune_core.bench.grid import Grid
from prune_core.errors import DataError, RecipeError
from prune_core.folders.loading import structure_of
from tests.meta.tree import ROOT

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 50}
SMALL = {"row": "small", "base": SHAPE, "heads_per_layer": [1, 0], "ffn_per_layer": [8, 0]}
GRID = Grid(batch_sizes=(2,), lengths=(8,), rounds=3)


def written(folder: Path, *rows: dict) -> Path:
    file = folder / "networks.json"
    file.write_text(json.dumps({"source": "a paper", "networks": rows}))
    return file


def test_a_network_has_the_sizes_that_are_given():
    model = networks.build_network(networks.Network(**SMALL))
    structure = structure_of(networks.build_dense(SHAPE))
    assert model.get_submodule(structure.attention[0].query).out_features == 4
    assert model.get_submodule(structure.ffn[0].up).out_features == 8
    assert list(structure_of(model).sizes().values()) == [1, 8, 0, 0]


def test_it_is_measured_against_the_dense_model_of_its_shape(tmp_path: Path):
    file = written(tmp_path, {**SMALL, "speedup": 2.5, "metric": 88.0}, {**SMALL, "row": "other"})
    found = networks.bench_networks(file, GRID, "cpu")
    assert [row.name for row in found.rows] == ["small", "other"]
    assert [row.published for row in found.rows] == [2.5, None]
    (rival,) = found.rows[0].rivals
    assert rival.name == "dense"
    assert rival.flop_limit > 1
    assert rival.speedup.low <= rival.speedup.value <= rival.speedup.high
    data = json.loads(json.dumps(found.to_dict()))["rows"][0]
    assert data["against"][0]["share"] == pytest.approx(rival.speedup.value / rival.flop_limit)
    assert data["published_speedup"] == 2.5


def test_those_of_bert_are_measured_against_both_berts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(networks.SHAPES, "bert-base", SHAPE)
    monkeypatch.setitem(networks.SHAPES, "bert-large", {**SHAPE, "num_hidden_layers": 4})
    found = networks.bench_networks(written(tmp_path, {**SMALL, "base": "bert-base"}), GRID, "cpu")
    base, large = found.rows[0].rivals
    assert (base.name, large.name) == ("bert-base", "bert-large")
    assert large.flop_limit > 1.5 * base.flop_limit


def test_networks_of_a_shape_that_fails_do_not_cost_the_others(tmp_path: Path):
    """Only one of them has as many positions."""
    short = {**SMALL, "row": "short", "base": {**SHAPE, "max_position_embeddings": 8}}
    grid = GRID.model_copy(update={"lengths": (9,)})
    for rows in ([short, SMALL], [SMALL, short]):
        found = networks.bench_networks(written(tmp_path, *rows), grid, "cpu")
        assert [row.name for row in found.rows] == ["small"]
        assert [(one.setting.length, one.error.partition(":")[0]) for one in found.failed] == [(9, "short")]
    with pytest.raises(RecipeError, match="takes 8 at most"):
        networks.bench_networks(written(tmp_path, short), grid, "cpu")


@pytest.mark.parametrize("name", ["published", "random", "bar"])
def test_the_files_of_the_repository_fit(name: str):
    found = networks.read_networks(ROOT / "benchmarks" / f"{name}_networks.json")
    assert len(found) == {"published": 12, "random": 6, "bar": 3}[name]
    for network in found:
        shape = {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072} | network.shape()
        assert len(network.heads_per_layer) == len(network.ffn_per_layer) == shape["num_hidden_layers"]
        assert max(network.heads_per_layer) <= shape["num_attention_heads"]
        assert max(network.ffn_per_layer) <= shape["intermediate_size"]


def test_what_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        networks.read_networks(tmp_path / "none.json")
    with pytest.raises(RecipeError, match=r"networks\.0\.heads_per_layer: Field required"):
        networks.read_networks(written(tmp_path, {"row": "a", "base": "bert-base", "ffn_per_layer": [1]}))
    for changes, message in (
        ({"base": "bert-huge"}, "no shape is called 'bert-huge', only bert-base, bert-large"),
        ({"heads_per_layer": [1]}, "heads_per_layer has 1 entries for 2 layers"),
        ({"ffn_per_layer": [8, 33]}, "ffn_per_layer: 33 of 32 in "),
    ):
        with pytest.raises(RecipeError, match=message):
            networks.build_network(networks.Network(**{**SMALL, **changes}))
    with pytest.raises(RecipeError, match="two models are called 'small'"):
        networks.bench_networks(written(tmp_path, SMALL, SMALL), GRID, "cpu")
    with pytest.raises(RecipeError, match="no tokenizer"):
        networks.bench_networks(written(tmp_path, SMALL), Grid(lengths_of="sst2"), "cpu")
