"""How granularities are written, and what they refuse. (What they compute: tests/parity.)"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_core.errors import MaskError, StructureError
from prune_core.granularity import NM, Block, Column, Element, Head, Neuron, Row, RowsColumns, parse_granularity

sizes = st.integers(1, 10**6)
others = st.lists(sizes, max_size=3).map(tuple)
axes = st.sampled_from(["rows", "columns"])
granularities = st.one_of(
    st.just(Element()),
    st.just(RowsColumns()),
    st.builds(Block, sizes, sizes),
    st.tuples(sizes, sizes).map(lambda pair: NM(min(pair), max(pair))),
    *(st.builds(kind, sizes, axes, others) for kind in (Head, Neuron, Row, Column)),
)


@given(granularities)
def test_what_is_written_is_read(granularity):
    assert parse_granularity(str(granularity)) == granularity


@pytest.mark.parametrize(
    ("text", "granularity"),
    [
        ("element", Element()),
        ("rows_columns", RowsColumns()),
        ("block:32x16", Block(32, 16)),
        ("head:rows:64", Head(64, "rows")),
        ("head:columns:64", Head(64, "columns")),
        ("head:rows:128+64+64", Head(128, "rows", (64, 64))),
        ("neuron:columns:1", Neuron(1, "columns")),
        ("row:rows:1", Row()),
        ("column:columns:1", Column()),
        ("2:4", NM(2, 4)),
    ],
)
def test_the_form_in_files_stays(text, granularity):
    """Masks that were saved must stay readable."""
    assert str(granularity) == text
    assert parse_granularity(text) == granularity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "elements",
        "block:32",
        "block:0x4",
        "block:4x0",
        "head:64",
        "head:rows:0",
        "neuron:diagonal:1",
        "head:rows:1+",
        "0:4",
        "5:4",
    ]
    + ["2:0", " element", "block:1x1 ", "block:-1x2", "rows"],
)
def test_unknown(text):
    with pytest.raises(MaskError, match="known: element, block:RxC"):
        parse_granularity(text)


@pytest.mark.parametrize(
    ("granularity", "said"),
    [
        (Block(4, 3), "blocks of 4x3 do not divide a weight of 6x9; choose sizes that divide 6 and 9"),
        (Block(3, 4), "blocks of 3x4 do not divide a weight of 6x9"),
        (Head(4, "rows"), "head:rows:4 does not divide a weight of 6x9: 4 does not divide 6"),
        (Head(2, "columns", (2, 1)), r"head:columns:2\+2\+1 does not divide a weight of 6x9: 5 does not divide 9"),
        (NM(2, 4), "2:4 does not divide a weight of 6x9 along its inputs"),
    ],
)
def test_what_does_not_divide(granularity, said):
    with pytest.raises(StructureError, match=said):
        granularity.score_shape((6, 9))
