"""Times of calls: warm-up, turns, and what a ratio says."""

import pytest
import torch

from prune_core import measure
from prune_core.measure import Prepared, Ratio, Setting
from prune_core.measure.calls import inferring, make_call
from prune_core.testing.tiny import tiny_model


def test_what_is_no_difference_is_called_none():
    assert Ratio(1.02, 1.01, 1.03).significant
    assert Ratio(0.9, 0.8, 0.95).significant
    assert not Ratio(1.02, 0.99, 1.03).significant
    assert f"{Ratio(2, 1.9, 2.1)}" == "2.00x (1.90 to 2.10)"
    assert f"{Ratio(1.02, 0.99, 1.03)}" == "no significant difference (0.99 to 1.03)"
    assert Ratio.from_dict(Ratio(2, 1.9, 2.1).to_dict()) == Ratio(2, 1.9, 2.1)


@pytest.mark.parametrize(
    ("rounds", "said"), [(9, "2.00x (2.00 to 2.00)"), (8, "too few rounds to tell (2.00 to 2.00)")]
)
def test_few_rounds_say_nothing(rounds: int, said: str):
    """Neither at once nor when it is read again; an interval around 1 is none of a difference at any number."""
    ratio = measure.paired_ratio([2.0] * rounds, [1.0] * rounds)
    assert ratio.significant == ratio.to_dict()["significant"] == (rounds == 9)
    assert str(ratio) == str(Ratio.from_dict(ratio.to_dict())) == said
    equal = measure.paired_ratio([1.0] * rounds, [1.0] * rounds)
    assert str(equal) == str(Ratio.from_dict(equal.to_dict())) == "no significant difference (1.00 to 1.00)"


def test_warm_up_goes_on_until_calls_get_no_faster(monkeypatch: pytest.MonkeyPatch):
    """A clock on which a call gets faster by a tenth at each of its first 12 calls."""
    counts, clock = {"a": 0, "b": 0}, [0.0]

    def call(name: str) -> None:
        counts[name] += 1
        clock[0] += 0.9 ** min(counts[name], 12)

    monkeypatch.setattr("prune_core.measure.timing.time.perf_counter", lambda: clock[0])
    seconds = measure.time_calls({name: lambda name=name: call(name) for name in counts}, rounds=5)
    assert seconds["a"] == pytest.approx([0.9**12] * 5)
    assert 12 < counts["a"] - 5 < 20


def test_warm_up_compares_the_same_batches(monkeypatch: pytest.MonkeyPatch):
    """Of five lengths, on a clock on which each batch takes twice as long when it comes for the first time."""
    clock, turns = [0.0], []

    def runs(input_ids: torch.Tensor) -> None:
        clock[0] += input_ids.shape[1] * (1 + (len(turns) < 5))
        turns.append(input_ids.shape[1])

    monkeypatch.setattr("prune_core.measure.timing.time.perf_counter", lambda: clock[0])
    batches = [{"input_ids": torch.zeros(1, length)} for length in (1, 1, 1, 9, 9)]
    call = make_call(tiny_model("bert"), runs, batches, Setting(batch_size=1, length=None))
    measure.time_calls({"a": inferring(call)}, rounds=5)
    assert len(turns) == 13 + 5, "until the pass before is no longer mostly the slow one"


def test_warm_up_on_cuda_takes_half_a_second(monkeypatch: pytest.MonkeyPatch):
    """With a clock in the place of a GPU, on which a call takes a hundredth of a second."""
    clock = [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = clock[0]

        def elapsed_time(self, end: "Event") -> float:
            return 1000 * (end.at - self.at)

    def call() -> None:
        clock[0] += 0.01

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr("prune_core.measure.timing.time.perf_counter", lambda: clock[0])
    assert measure.time_calls({"a": call}, 3, torch.device("cuda"))["a"] == pytest.approx([0.01] * 3)
    assert clock[0] == pytest.approx(0.5 + 3 * 0.01, abs=0.011)


def test_a_primed_call_comes_right_after_the_same_untimed(monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    measure.time_calls({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, primed=True)
    assert order[:4] in (list("abba"), list("baab")), "a warm-up is its own priming"
    assert order[-12:] in (list("bbaaaabbbbaa"), list("aabbbbaaaabb"))
    assert order.count("a") == order.count("b")


def test_what_prepares_a_call_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]

    def passes(seconds: float) -> float:
        clock[0] += seconds
        return seconds

    monkeypatch.setattr("prune_core.measure.timing.time.perf_counter", lambda: clock[0])
    call = Prepared(lambda index: passes(100.0), lambda state: passes(state / 50))
    assert measure.time_calls({"a": call}, rounds=3)["a"] == pytest.approx([2.0] * 3)
