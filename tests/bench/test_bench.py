"""Benchmarks: what they compare is the same computation."""

from __future__ import annotations

import copy

import pytest
import torch

from bd3cli.bench.profile import counted_flops
from bd3cli.bench.reference_step import reference_loss
from bd3cli.bench.timing import Timing, interleaved, ratio
from bd3cli.bench.train import bench_train, profile_train, random_batch
from bd3cli.diffusion.batch import weighted_nll

SMALL = {"length": 16, "block_size": 4, "hidden_size": 32, "blocks": 2, "heads": 2, "vocab_size": 11}


def test_the_reference_step_computes_the_same_loss_and_gradients(make_model) -> None:
    model = make_model("bd3lm")
    other = copy.deepcopy(model)
    batch = random_batch(model.config, 3)
    ours, theirs = weighted_nll(model, batch)[0], reference_loss(other, batch, 16)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    ours.backward()
    theirs.backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_bench_train_reports_losses_that_agree() -> None:
    result = bench_train(**SMALL, batch_size=2, repeats=2)
    losses = result["loss"]
    assert losses["ours_fp32"] == pytest.approx(losses["reference_fp32"], rel=1e-5)
    assert losses["ours_bf16"] == pytest.approx(losses["reference_fp32"], rel=2e-2)
    assert set(result["ratio"]) == {"fp32", "bf16"}


def test_profile_parts_make_up_the_step_and_its_products_are_counted() -> None:
    result = profile_train(**SMALL, batch_size=2, repeats=2, precision="fp32")
    found = result["profile"]["fp32"]
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"], rel=0.05)
    assert {"attention", "linear layers", "vocabulary projection and loss", "weight average"} <= set(found["parts"])
    assert found["over_gemm"] == pytest.approx(found["seconds"] / found["gemm_seconds"])
    # Weights of two layers, 12 d^2 each, forward once and backward twice, on 2L rows; the last layer's clean L rows
    # meet the keys' and values' alone, and the rest of the step has products too.
    d, length, sequences = 32, 16, 2
    linear = 3 * 2 * sequences * length * (2 * 12 + 12 + 2) * d * d
    assert linear < found["gemm_flops"] < 2 * linear


def test_products_are_counted_by_shape() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert counted_flops(lambda: a @ b) == 2 * 3 * 4 * 5
    assert counted_flops(lambda: torch.addmm(torch.zeros(5), a, b)) == 2 * 3 * 4 * 5
    batch = torch.randn(2, 3, 4)
    assert counted_flops(lambda: torch.baddbmm(torch.zeros(1), batch, batch.mT)) == 2 * 2 * 3 * 4 * 3


def test_interleaving_takes_turns() -> None:
    order: list[str] = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3


def test_ratio_is_of_medians_with_quartiles_of_turns() -> None:
    found = ratio(Timing((4.0, 6.0, 8.0)), Timing((2.0, 2.0, 4.0)))
    assert found == {"ratio": 3.0, "low": 2.0, "high": 3.0}


def test_bench_commands(cli, trained) -> None:
    sizes = [f for k, v in SMALL.items() for f in (f"--{k.replace('_', '-')}", v)]
    row = cli("bench", "train", *sizes, "--batch-size", 2, "--repeats", 2, "--json").json
    assert row["ratio"]["fp32"]["ratio"] > 0
    assert row["environment"]["torch"] == torch.__version__
    sizes[sizes.index("--length") + 1] = 68
    speed = cli("bench", "sample", *sizes, "--batch-size", 2, "--repeats", 1, "--json").json
    assert set(speed["tokens_per_second"]) == {"uncached", "single", "batch"}
    one = cli(
        "bench", "attention", "--length", 16, "--repeats", 1, "--batch-size", 1, "--backend", "cpu", "--json"
    ).json
    assert one["backend"] == "cpu"
    assert one["ratio"] > 0
    growth = cli("bench", "attention", "--lengths", "16,32", "--repeats", 1, "--batch-size", 1)
    assert "saved for backward" in growth.out
    parts = cli("bench", "train", *sizes, "--batch-size", 2, "--repeats", 1, "--precision", "fp32", "--profile")
    assert "GFLOP of matrix products" in parts.out
    refused = cli("bench", "attention", "--lengths", "16,x")
    assert refused.code == 2
    assert "whole numbers" in refused.err
    error = cli("bench", "eval", trained, "--sequences", 64, "--seeds", 8, "--json").json
    assert error["ratio"] > 1
    assert error["ratios"]["count+ngram"]["mc_stderr_by_sequence"] > error["ratios"]["count"]["mc_stderr_by_sequence"]
    assert "Monte Carlo error" in cli("bench", "eval", trained, "--sequences", 8, "--seeds", 2).out
