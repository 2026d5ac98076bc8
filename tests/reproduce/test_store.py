"""What a reproduction keeps of its measurements: read back as it was, and refused by name when it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from bd3cli.errors import InputError
from bd3cli.reproduce.cells import Measurement
from bd3cli.reproduce.store import Store


def never() -> dict[str, Measurement]:
    raise AssertionError("measured again")


def test_a_measurement_comes_back_as_it_was(tmp_path: Path) -> None:
    made = {
        "ppl": Measurement(1.5, (1.0, 2.0), {"nelbo": [1.0, 2.5], "tokens": [3, 4]}, "a note", 7.5),
        "none": Measurement(None, note="no data"),
    }
    store = Store(tmp_path)
    assert store.measured("x", {"seed": 1}, lambda: made) is made
    assert store.measured("x", {"seed": 1}, never) == made
    (path,) = (tmp_path / "measured").iterdir()
    path.write_text(path.read_text("utf-8").replace(', "effective_n": 7.5', ""))  # as before it was kept
    assert store.measured("x", {"seed": 1}, never)["ppl"].effective is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "the document is [], which is not an object."),
        ('{"ppl": {"raw": 1}}', "ppl.ci95 is missing."),
        ('{"ppl": 3}', "ppl is 3, which is not an object."),
        (
            '{"ppl": {"raw": "x", "ci95": null, "sequences": null, "note": ""}}',
            "ppl.raw is 'x', which is not a number.",
        ),
    ],
)
def test_a_damaged_measurement_is_named(tmp_path: Path, text: str, message: str) -> None:
    store = Store(tmp_path)
    store.measured("x", 1, lambda: {"ppl": Measurement(1.0)})
    (path,) = (tmp_path / "measured").iterdir()
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        store.measured("x", 1, never)
    assert message in str(refused.value)
    assert "is damaged" in str(refused.value)
    assert "Delete it; it will be measured again." in str(refused.value)
