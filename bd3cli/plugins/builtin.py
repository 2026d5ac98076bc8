"""What the core ships, registered through the same hooks third parties use."""

from __future__ import annotations

from bd3cli.hookspecs import Register, hookimpl


@hookimpl
def register_noise_schedules(register: Register) -> None:
    for name, cls in (
        ("loglinear", "LogLinear"),
        ("square", "Square"),
        ("sqrt", "SquareRoot"),
        ("log", "Logarithmic"),
        ("cosine", "Cosine"),
        ("full", "Full"),
    ):
        register(name, f"bd3cli.schedules.builtin:{cls}")


@hookimpl
def register_loss_weights(register: Register) -> None:
    register("none", "bd3cli.weights.builtin:Unweighted")


@hookimpl
def register_maskings(register: Register) -> None:
    register("bernoulli", "bd3cli.maskings.bernoulli:Bernoulli")
    register("count", "bd3cli.maskings.count:Count")
    register("adaptive", "bd3cli.maskings.adaptive:Adaptive")


@hookimpl
def register_samplers(register: Register) -> None:
    # A family's first one is its default.
    register("first-hitting", "bd3cli.sampling.first_hitting:FirstHitting")
    register("ancestral", "bd3cli.sampling.ancestral:Ancestral")
    register("confidence", "bd3cli.sampling.confidence:Confidence")
    register("semi-ar", "bd3cli.sampling.semi_ar:SemiAutoregressive")
    register("ar", "bd3cli.sampling.autoregressive:Autoregressive")
    register("analytic", "bd3cli.sampling.analytic:Analytic")


@hookimpl
def register_datasets(register: Register) -> None:
    for name in ("pydocs", "lm1b", "openwebtext", "wikitext2", "wikitext103", "ptb", "lambada", "ag_news", "pubmed",
                 "arxiv"):  # fmt: skip
        register(name, f"bd3cli.data.corpora:{name.upper()}")


@hookimpl
def register_tokenizers(register: Register) -> None:
    register("bytes", "bd3cli.data.tokenizers.tiktoken:BytesTokenizer")
    register("ids", "bd3cli.data.tokenizers.ids:IdTokenizer")
    register("hf", "bd3cli.data.tokenizers.hf:HFTokenizer")
    for name in ("gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"):
        register(name, "bd3cli.data.tokenizers.tiktoken:TiktokenTokenizer")
