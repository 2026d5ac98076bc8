"""The outcome of one law, and how laws are run and asserted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bd3cli.errors import BD3Error
from bd3cli.faults import accused, describe

S = TypeVar("S")
Outcome = tuple[bool, str]
Laws = Sequence[tuple[str, Callable[[S], Outcome]]]


@dataclass(frozen=True)
class Law:
    """One checked law.

    Attributes:
        law: short name, for example ``"monotone"``.
        ok: whether it holds.
        detail: the worst point; when the law fails, also what to fix.
    """

    law: str
    ok: bool
    detail: str


def run_laws(subject: S, laws: Laws[S]) -> list[Law]:
    """Check every law; an exception fails the law it happened in and no other."""
    return [_run(name, check, subject) for name, check in laws]


def _run(name: str, check: Callable[[S], Outcome], subject: S) -> Law:
    try:
        ok, detail = check(subject)
    except BD3Error as error:
        return Law(name, False, str(error))
    except (Exception, SystemExit) as error:
        return Law(name, False, accused(error) or f"raised {describe(error)}")
    return Law(name, bool(ok), detail)


def assert_laws(laws: Sequence[Law]) -> None:
    """Raise an AssertionError that lists every law that fails; for tests of plugins."""
    failed = [law for law in laws if not law.ok]
    assert not failed, "\n".join(f"{law.law}: {law.detail}" for law in failed)
