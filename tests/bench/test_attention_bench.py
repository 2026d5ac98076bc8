"""The measurements themselves: what they contain and that they measure what they say."""

from __future__ import annotations

import json

import pytest
import torch

from bd3cli.bench.attention import bench_attention, bench_growth, peak_memory, saved_bytes
from bd3cli.errors import InputError


def test_report_is_complete_json_and_restores_threads():
    threads = torch.get_num_threads()
    report = bench_attention(32, 4, heads=2, head_dim=8, batch=1, repeats=3, threads=1)
    assert torch.get_num_threads() == threads
    assert json.loads(json.dumps(report)) == report
    assert report["backend"] == "cpu"
    assert report["ratio"] == pytest.approx(report["reference"]["seconds"] / report["seconds"])
    assert report["ratio_quartiles"][0] <= report["ratio_quartiles"][1]
    for side in (report, report["reference"]):
        assert side["seconds"] > 0
        assert side["saved_bytes"] > 0
        assert side["peak_bytes"] > 0


def test_noisy_queries_alone_save_less():
    both = bench_attention(32, 4, heads=1, head_dim=8, batch=1, repeats=1)
    noisy = bench_attention(32, 4, heads=1, head_dim=8, batch=1, repeats=1, noisy_queries_only=True)
    assert noisy["saved_bytes"] < both["saved_bytes"]


def test_growth_has_a_row_a_length():
    report = bench_growth([512, 1024], 4, heads=1, head_dim=8, batch=1, repeats=1)
    assert json.loads(json.dumps(report)) == report
    assert [row["length"] for row in report["rows"]] == [512, 1024]
    assert report["rows"][1]["saved_bytes"] == 2 * report["rows"][0]["saved_bytes"]


def test_saved_bytes_counts_a_storage_once():
    x = torch.randn(10, requires_grad=True)
    assert saved_bytes(lambda: x * x) == 40
    assert saved_bytes(lambda: x * 2) == 0


def test_peak_memory_is_what_is_held_at_once():
    def step():
        for _ in range(3):
            torch.empty(1000, dtype=torch.float64).fill_(1)

    assert 8000 <= peak_memory(step) < 16000


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"repeats": 0}, {"block_size": 5}, {"backend": "flex"}])
def test_what_cannot_be_measured_is_refused(wrong):
    with pytest.raises(InputError):
        bench_attention(**{"length": 16, "block_size": 4, "heads": 1, "head_dim": 4, "batch": 1, "repeats": 1} | wrong)
