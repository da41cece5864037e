"""Every family, compact, with layers of other sizes and empty ones, computes the same in every runtime."""

import pytest

from prune_core.errors import ExportError
from prune_core.exporting import FORMATS, export_model, exporter, supported
from prune_core.exporting.families import FAMILIES as KNOWN
from prune_core.testing.tiny import FAMILIES, tiny_model
from tests.exporting.tiny import batches, compacted

COMMON = ("bert", "distilbert", "deberta-v2", "t5", "gpt2", "llama", "vit", "swin", "wav2vec2")
"""Families that are exported at every run of the tests; the others by `make test-slow`."""
TWICE = ("bert", "t5")
"""Those of them that go to OpenVINO too: it reads what was translated to ONNX."""

REFUSED = ("gemma3",)
"""Families whose graphs cannot be written: its mask of images is a function that is called in the graph."""
EXPORTED = tuple(family for family in FAMILIES if family not in REFUSED)


def slow(family, format):
    often = family in (TWICE if format == "openvino" else COMMON)
    return pytest.param(family, format, marks=() if often else pytest.mark.slow)


@pytest.mark.parametrize(("family", "format"), [slow(family, format) for family in EXPORTED for format in FORMATS])
def test_computes_the_same(family, format, tmp_path):
    """In batches of other sizes and lengths than the traced one, the last text of each half padding."""
    model = compacted(family)
    target = exporter(format)
    pytest.importorskip(target.packages[0] if target.packages else "torch")
    traced, parity = export_model(model, tmp_path, target, batches(family))
    assert parity.difference <= parity.tolerance / 10
    assert {"batch"} <= {name for axes in traced.axes.values() for name in axes.values()}
    assert len({tuple(shapes.items()) for shapes in parity.shapes}) == 3


@pytest.mark.parametrize("format", [pytest.param("torch-export"), pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_translated_is_refused(family, format, tmp_path):
    with pytest.raises(ExportError, match=r"the graph cannot be (saved|translated): ") as caught:
        export_model(compacted(family), tmp_path, exporter(format), batches(family))
    assert "\n" not in str(caught.value)


def test_what_is_said_to_work_is_what_is_tested():
    assert {tiny_model(family).config.model_type for family in EXPORTED} == KNOWN
    assert all(supported(family, format) for family in KNOWN for format in FORMATS)
    assert not supported("xlnet", "onnx")
    assert not supported("bert", "tflite")
