"""Which backend runs, and what is said when one cannot."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bd3cli.attention import BACKENDS, aten, block_attention, choose_backend, xformers
from bd3cli.attention.dispatch import load_backend
from bd3cli.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_on_a_cpu():
    choice = choose_backend("auto", CPU, torch.float32)
    assert choice.name == "cpu"
    assert "cpu" in choice.reason


def test_auto_falls_back_to_reference_and_says_why():
    choice = choose_backend("auto", CPU, torch.float16)
    assert choice.name == "reference"
    assert "float16" in choice.reason


def test_auto_on_an_unknown_device():
    assert choose_backend("auto", torch.device("meta"), torch.float32).name == "reference"


@pytest.mark.parametrize(
    ("xformers_says", "aten_says", "name"),
    [("", "", "xformers"), ("old driver.", "", "aten"), ("a.", "b.", "reference")],
)
def test_auto_on_cuda(xformers_says, aten_says, name, monkeypatch):
    monkeypatch.setattr(xformers, "unavailable", lambda device, dtype: xformers_says)
    monkeypatch.setattr(aten, "unavailable", lambda device, dtype: aten_says)
    choice = choose_backend("auto", CUDA, torch.bfloat16)
    assert choice.name == name
    assert xformers_says in choice.reason
    if name == "reference":
        assert aten_says in choice.reason


@pytest.mark.parametrize("name", ["xformers", "flex"])
def test_gpu_backends_refuse_the_cpu_with_a_remedy(name):
    with pytest.raises(InputError, match=f"The {name} attention backend cannot run: .*CUDA.* Use auto or cpu") as error:
        choose_backend(name, CPU, torch.float32)
    assert isinstance(error.value, ValueError)
    q = torch.randn(1, 8, 1, 4)
    with pytest.raises(InputError, match=name):
        block_attention(q, q, q, block_size=2, backend=name)


def test_cpu_backend_refuses_other_dtypes_and_devices():
    with pytest.raises(InputError, match=r"not torch\.float16\. Use auto or reference"):
        choose_backend("cpu", CPU, torch.float16)
    assert "on cuda" in load_backend("cpu").unavailable(CUDA, torch.float32)
    assert "on meta" in load_backend("aten").unavailable(torch.device("meta"), torch.float32)


def test_a_misspelt_backend_is_named_with_the_closest():
    with pytest.raises(InputError, match=r"no attention backend 'xformer'\. Did you mean 'xformers'\?"):
        choose_backend("xformer", CPU, torch.float32)


@pytest.mark.parametrize("name", ["reference", "cpu", "aten"])
def test_backends_for_the_cpu_can_be_asked_for(name):
    choice = choose_backend(name, CPU, torch.float32)
    assert choice.name == name
    assert choice.reason
    assert name in BACKENDS


def test_computing_on_a_cpu_never_imports_xformers():
    code = (
        "import sys, torch; from bd3cli.attention import block_attention; q = torch.randn(1, 8, 1, 4);"
        "block_attention(q, q, q, block_size=2); assert 'xformers' not in sys.modules;"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
