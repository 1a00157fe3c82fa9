"""Damaged files of every kind before every command that reads them; `python tests/fuzz.py` tries seven times as many."""

import fuzz
import pytest
import torch

from iris_edu import checkpoint

# their good files are refused too: weights of one number, a stranger's code
SMALL = ("VGG16 .ckpt", "VGG16 .safetensors", "trusted.txt")


@pytest.fixture(scope="module", autouse=True)
def threads():
    "The fuzz computes in one thread; the tests after it get back what they had."
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_good_files_are_read():
    "Before good files every command ends well, so that a refusal means something."
    refused = [
        outcome
        for outcome in fuzz.untouched()
        if outcome.verdict != ("sentence" if outcome.kind in SMALL else "harmless")
    ]
    assert not refused


def test_damaged_files_end_in_a_sentence_or_do_no_harm():
    outcomes = fuzz.run(count=300)
    assert {outcome.kind for outcome in outcomes} == set(fuzz.KINDS)
    assert not fuzz.faults(outcomes), f"\n{fuzz.told_faults(outcomes)}"


def test_a_library_that_checks_nothing_is_found(monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 5)
    monkeypatch.setattr(checkpoint, "_trouble", lambda *content: None)
    found = {outcome.verdict for outcome in fuzz.run(count=30, only="^checkpoint$")}
    assert "DAMAGE TAKEN" in found
