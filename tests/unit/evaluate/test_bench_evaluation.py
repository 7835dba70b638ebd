"""The benchmark of the answering path, at a size of seconds."""

from pathlib import Path

from bench.evaluation import DRAWS, measure


def test_both_ways_give_the_same_replies(tmp_path: Path) -> None:
    result = measure(tmp_path, videos=2, questions=2, single=6, rounds=1)
    assert result["same_replies"] == 1.0
    assert result["requests"] == 4 * (2 + DRAWS) and result["different_requests"] <= result["requests"]
    assert result["speedup"] > 0
