"""Linears that skip their zeros: the same outputs, the same parameters, and only where it is faster."""

import copy
import time

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from prune_core.folders.loading import structure_of
from prune_core.linears import linear
from prune_core.measure import DENSE, Grid, Ratio, bench
from prune_core.measure.forwards import seconds_inside
from prune_core.sparse import use_sparse_forms
from prune_core.sparse.forms import FORMS, BlockSparse, RowsOfBlocks, StackedRows, TwoOfFour, make_dense
from prune_core.testing.tiny import tiny_inputs, tiny_model


def layer_of_blocks(density, *, bias=True, size=(256, 128), seed=0):
    """A linear of which blocks of 32x32 are left at random, and of one row of blocks none."""
    torch.manual_seed(seed)
    layer = nn.Linear(size[1], size[0], bias=bias)
    kept = torch.rand(size[0] // 32, size[1] // 32) < density
    kept[1] = False
    with torch.no_grad():
        layer.weight *= kept.repeat_interleave(32, 0).repeat_interleave(32, 1)
    return layer


@pytest.mark.parametrize("form", [RowsOfBlocks, StackedRows])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [32, 64, 128])
@pytest.mark.parametrize("shape", [(7, 128), (2, 5, 128), (0, 128)])
def test_rows_of_blocks_compute_the_same(form, bias, rows, shape):
    layer, given = layer_of_blocks(0.4, bias=bias, size=(384, 128)), torch.randn(shape)
    expected = layer(given)
    form.make(layer, rows)
    with torch.inference_mode():
        torch.testing.assert_close(layer(given), expected, atol=1e-5, rtol=0)


def test_nothing_is_tried_where_nothing_can_be_won():
    assert not list(RowsOfBlocks.options(nn.Linear(128, 256)))
    assert not list(RowsOfBlocks.options(layer_of_blocks(0.9)))
    assert list(RowsOfBlocks.options(layer_of_blocks(0.3))) == [32, 64, 128]
    assert list(BlockSparse.options(layer_of_blocks(0.3))) == [32, 16]
    half = layer_of_blocks(0.3).to(torch.bfloat16)
    assert not list(TwoOfFour.options(half))
    with torch.no_grad():
        half.weight.view(-1, 4)[:, 1:3] = 0
    assert list(TwoOfFour.options(half)) == [64]


def test_parameters_stay_and_training_is_dense():
    layer = layer_of_blocks(0.3)
    plain, given = copy.deepcopy(layer), torch.randn(4, 128)
    RowsOfBlocks.make(layer, 64)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    layer(given).square().sum().backward()
    plain(given).square().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    make_dense(layer)
    assert type(layer) is nn.Linear
    assert layer.__dict__.keys() == plain.__dict__.keys()


@pytest.mark.parametrize("change", ["step", "load", "assign", "dtype"])
def test_a_weight_that_changed_is_not_computed_with_as_it_was(change):
    layer, given = layer_of_blocks(0.3), torch.randn(4, 128)
    RowsOfBlocks.make(layer, 64)
    if change == "step":
        with torch.no_grad():
            layer.weight.add_(1)
    elif change in ("load", "assign"):
        layer.load_state_dict(layer_of_blocks(0.3, seed=1).state_dict(), assign=change == "assign")
    else:
        layer.double()
        given = given.double()
    with torch.inference_mode():
        expected = nn.functional.linear(given, layer.weight, layer.bias)
        torch.testing.assert_close(layer(given), expected)


def sparse_bert():
    """A tiny BERT whose layers have 256 neurons, its feed-forward blocks nearly all empty."""
    model = tiny_model("bert", intermediate_size=256).eval()
    with torch.no_grad():
        for unit in structure_of(model).ffn:
            linear(model, unit.up).weight[32:] = 0
    return model


def test_each_linear_takes_a_form_only_where_that_was_faster(monkeypatch):
    model = sparse_bert()
    batch = tiny_inputs(model)
    with torch.inference_mode():
        expected = model(**batch).logits

    for ratio, form in ((Ratio(1.5, 1.2, 1.6), "rows of blocks"), (Ratio(1.1, 0.9, 1.3), DENSE)):
        monkeypatch.setattr("prune_core.sparse.choice.paired_ratio", lambda *_, ratio=ratio: ratio)
        found = use_sparse_forms(model, batch)
        assert [one.layer for one in found] == list(structure_of(model).linears())
        up = [one for one in found if "intermediate" in one.layer]
        assert all(one.form.startswith(form) and (one.gain, one.low, one.high) == ratio.figures for one in up)
        assert all(isinstance(linear(model, one.layer), RowsOfBlocks) is (form != DENSE) for one in up)
        assert all(one.form == DENSE for one in found if one not in up)
        with torch.inference_mode():
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("again", "whole"), [(1.1, 1.1), (0.9, 1.1), (1.1, 0.9)])
def test_forms_are_timed_in_turns_and_the_fastest_once_more(monkeypatch, again, whole):
    """By a clock on which one form is twice as fast at first, and faster or slower by a tenth when timed again, as the
    whole model with it is.
    """
    model, passes = sparse_bert(), []
    fastest = f"{StackedRows.kind} of 32"

    def form_now(name):
        layer = linear(model, name).forward.__self__
        if isinstance(layer, StackedRows):
            return f"{layer.kind} of {layer._stacks[0][1].shape[1]}"
        return f"{layer.kind} of {len(layer._parts[0][1])}" if isinstance(layer, RowsOfBlocks) else DENSE

    def seconds_inside(model, layers, batch):
        (form,) = {form_now(name) for name in layers if name}
        passes.append(form)
        fast = 2 if len(passes) <= 6 * 3 * 4 else again
        seconds = dict.fromkeys(layers, 1 / fast if form == fastest else 1.0)
        return seconds | {"": 1 / whole if form == fastest else 1.0}

    monkeypatch.setattr("prune_core.sparse.choice.seconds_inside", seconds_inside)
    found = [one for one in use_sparse_forms(model, tiny_inputs(model)) if "intermediate" in one.layer]
    expected = []
    for form in [f"{kind} of {rows}" for kind in (RowsOfBlocks.kind, StackedRows.kind) for rows in (32, 64, 128)]:
        expected += turns(form, 3)
    assert passes == expected + turns(fastest, 9)
    assert {one.form for one in found} == {fastest if min(again, whole) > 1 else DENSE}
    assert [one.gain for one in found] == pytest.approx([again] * len(found))


def turns(form, rounds):
    """What computes pass by pass: each side untimed and then timed, the order turned from round to round."""
    there, back = [DENSE, DENSE, form, form], [form, form, DENSE, DENSE]
    return [one for index in range(rounds) for one in (back if index % 2 else there)]


def test_layers_with_a_forward_of_their_own_keep_it():
    """As accelerate gives them, where a model is spread over devices."""
    model = sparse_bert()
    layers = {one: linear(model, one) for one in structure_of(model).linears()}
    hooked = next(layer for name, layer in layers.items() if "intermediate" in name)
    calls, plain = [], hooked.forward
    hooked.forward = own = lambda given: (calls.append(given), plain(given))[1]
    use_sparse_forms(model, tiny_inputs(model), rounds=3)
    assert hooked.forward is own
    assert calls
    assert all("forward" not in layer.__dict__ for layer in layers.values() if layer is not hooked)


def test_a_layer_that_is_shared_is_timed_in_all_its_calls():
    model = tiny_model("albert", num_hidden_groups=1).eval()
    first, other, *_ = structure_of(model).linears()
    calls = []

    def sleep(*_):
        calls.append(first)
        time.sleep(0.05)

    linear(model, first).register_forward_hook(sleep)
    found = seconds_inside(model, ["", first, other], tiny_inputs(model))
    assert list(found) == ["", first, other]
    assert len(calls) > 1
    assert found[""] > found[first] >= 0.05 * len(calls)
    assert 0 < found[other] < found[first]


def test_a_form_that_fails_is_not_taken_and_said(monkeypatch, caplog):
    def fails(layer, flat):
        raise RuntimeError("no kernel for this size\nbut for others")

    for form in (RowsOfBlocks, StackedRows):
        monkeypatch.setattr(form, "_sparse", fails)
    model = sparse_bert()
    found = use_sparse_forms(model, tiny_inputs(model), rounds=3)
    assert {one.form for one in found} == {DENSE}
    assert all(type(linear(model, one.layer)) is nn.Linear for one in found)
    assert "intermediate.dense stays out of rows of blocks of 32, which fails: no kernel for this size" in caplog.text


def test_a_measurement_says_which_layers_took_a_form(monkeypatch):
    model = sparse_bert()
    monkeypatch.setattr("prune_core.sparse.choice.paired_ratio", lambda *_: Ratio(1.5, 1.2, 1.6))
    grid = Grid(batch_sizes=(1,), lengths=(4,), rounds=3, runtimes=("torch", "sparse"))
    plain, sparse = bench({"dense": tiny_model("bert"), "small": model}, grid, "cpu").rows
    assert [side.forms for side in plain.sides] == [None, None]
    assert {one.form for one in sparse.sides[0].forms} == {DENSE}
    taken = [one["layer"] for one in sparse.to_dict()["models"][0]["forms"] if one["form"] != DENSE]
    assert taken == [name for name in structure_of(model).linears() if "intermediate" in name]


def test_a_large_sparse_linear_is_measured_to_be_faster():
    model = tiny_model("bert", layers=1, hidden_size=512, intermediate_size=2048).eval()
    with torch.no_grad():
        for unit in structure_of(model).ffn:
            linear(model, unit.up).weight[64:] = 0
            linear(model, unit.down).weight[:, 64:] = 0
    batch = {name: value.repeat(8, 4) for name, value in tiny_inputs(model).items() if name != "labels"}
    found = use_sparse_forms(model, batch, rounds=15)  # other work may disturb a few
    up = [one for one in found if "intermediate" in one.layer]
    assert all(RowsOfBlocks.kind in one.form and one.low > 1 for one in up)


def test_a_model_in_a_sparse_form_saves_as_it_was(tmp_path):
    model = sparse_bert()
    for unit in structure_of(model).ffn:
        RowsOfBlocks.make(linear(model, unit.up), 32)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


SIZES = {BlockSparse: [(256, 128), (192, 128)], TwoOfFour: [(256, 128), (200, 72)]}
"""Of layers: rows and columns. What is two of four is padded where it has to be, blocks need whole ones."""
TOLERANCES = {torch.float16: 2e-2, torch.bfloat16: 5e-2, torch.float32: 1e-3}
CASES = [
    (form, size, dtype)
    for form, sizes in SIZES.items()
    for size in sizes
    for dtype in TOLERANCES
    if (form, dtype) != (TwoOfFour, torch.float32)
]


def half_left(form, size, dtype, device="cpu"):
    """A linear with zeros that the form can skip: half of every four, and for blocks most of the rows too."""
    torch.manual_seed(0)
    layer = nn.Linear(size[1], size[0]).to(device, dtype)
    with torch.no_grad():
        layer.weight.view(-1, 4)[:, :2] = 0
        if form is BlockSparse:
            layer.weight[: size[0] * 3 // 4] = 0
    return layer


def kernels(call):
    """Names of what runs on the GPU."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    return {event.name for event in found.events()}


@pytest.mark.parametrize(("dtype", "sizes"), [(torch.float32, [64, 32, 16]), (torch.bfloat16, [128, 64, 32, 16])])
def test_the_largest_blocks_are_for_half_precision(dtype, sizes):
    """In float32 their kernel adds up in float64, and takes minutes to compile."""
    assert list(BlockSparse.options(half_left(BlockSparse, (512, 128), dtype))) == sizes


def test_every_form_of_cuda_has_cases_with_something_to_try():
    assert SIZES.keys() == {form for form in FORMS if form.device == "cuda"}
    assert all(list(form.options(half_left(form, size, dtype))) for form, size, dtype in CASES)


@pytest.mark.parametrize(("size", "copied"), [((256, 128), []), ((200, 72), ["constant_pad_nd"] * 2)])
def test_two_of_four_copies_its_input_only_where_it_is_padded(monkeypatch, size, copied):
    """Where there are no such kernels, with a packed weight that is dense."""
    monkeypatch.setattr("prune_core.sparse.forms._has_kernels", lambda weight: True)
    monkeypatch.setattr("torch.sparse.to_sparse_semi_structured", lambda weight: weight)
    layer, given = half_left(TwoOfFour, size, torch.bfloat16), torch.randn(8, size[1], dtype=torch.bfloat16)
    expected, ran = layer(given), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            ran.append(func.overloadpacket.__name__)
            return func(*args, **kwargs or {})

    TwoOfFour.make(layer, 64)
    with torch.no_grad(), Watch():
        torch.testing.assert_close(layer(given), expected, atol=5e-2, rtol=1e-2)
    assert [name for name in ran if name in ("constant_pad_nd", "clone", "copy_")][: len(copied) + 1] == copied


@pytest.mark.parametrize("tokens", [5, 16, 17])
def test_tokens_of_block_sparse_rows_are_padded_to_whole_blocks(monkeypatch, tokens):
    """As torch's Triton kernels need them; here it is computed on the CPU, which takes any number."""
    layer, given, seen = half_left(BlockSparse, (256, 128), torch.float32), torch.randn(tokens, 128), []
    expected, product = layer(given), nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *more: (seen.append(len(x)), product(x, *more))[1])
    for block in (32, 16):
        BlockSparse.make(layer, block)
        with torch.inference_mode():
            torch.testing.assert_close(layer(given), expected, atol=1e-5, rtol=0)
        make_dense(layer)
    assert seen == [32, 16 if tokens <= 16 else 32]


@pytest.mark.gpu
@pytest.mark.parametrize(("form", "size", "dtype"), CASES)
@pytest.mark.parametrize("tokens", [64, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_forms_of_cuda_compute_the_same(form, size, dtype, tokens, bias):
    layer = half_left(form, size, dtype, "cuda")
    layer.bias = layer.bias if bias else None
    given = torch.randn(tokens, size[1], device="cuda", dtype=dtype)
    expected = layer(given).detach()
    for option in form.options(layer):
        form.make(layer, option)
        with torch.inference_mode():
            assert layer._ready()
            torch.testing.assert_close(layer(given), expected, atol=TOLERANCES[dtype], rtol=1e-2)
            if form is BlockSparse:
                assert any("_bsr_strided" in name for name in kernels(lambda: layer(given))), "Triton was not used"
        make_dense(layer)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_choice_on_cuda(dtype, caplog):
    """Every form that fits runs in the model, whichever of them the measurement takes."""
    model = tiny_model("bert", hidden_size=256, intermediate_size=512).cuda().to(dtype)
    batch = {name: value.cuda() for name, value in tiny_inputs(model).items()}
    with torch.no_grad():
        for unit in structure_of(model).units:
            for name in unit.linears():
                model.get_submodule(name).weight.view(-1, 64)[:, :48] = 0
    expected = model(**batch).logits
    told = use_sparse_forms(model, batch, rounds=9)
    assert "which fails" not in caplog.text
    assert all((found.low, found.high) != (1.0, 1.0) for found in told), "each was timed in some form"
    with torch.inference_mode():
        torch.testing.assert_close(model(**batch).logits, expected, atol=10 * TOLERANCES[dtype], rtol=1e-2)
