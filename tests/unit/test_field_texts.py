"""Tests of the labels of fields and of their values in words."""

from __future__ import annotations

import pytest

from hpchub.catalogue import translations
from hpchub.messages import translated
from hpchub.model.choice import NAMES as FIELDS
from hpchub.model.choice import Complaint
from hpchub.model.field_texts import LABELS, NAMES, in_words

GERMAN = translations("de").gettext


def test_each_field_has_a_label_and_a_name() -> None:
    assert set(LABELS) == set(NAMES) == set(FIELDS)


@pytest.mark.parametrize(
    ("name", "value", "english", "german"),
    [
        ("memory", "4096M", "4 GB", "4 GB"),
        ("memory", "500M", "500 MB", "500 MB"),
        ("runtime", "0:30:00", "30 min", "30 min"),
        ("runtime", "1:30:20", "1 h 30 min 20 s", "1 h 30 min 20 s"),
        ("runtime", "2-00:00:00", "48 h", "48 h"),
        ("runtime", "7-00:00:00", "7 days", "7 Tage"),
        ("runtime", "7-01:00:00", "7 days 1 h", "7 Tage 1 h"),
        ("cores", 4, "4", "4"),
        ("interface", "lab", "JupyterLab", "JupyterLab"),
        ("interface", "notebook", "Jupyter Notebook", "Jupyter Notebook"),
        ("interface", "nbclassic", "Classic notebook", "Klassisches Notebook"),
        ("gpu_type", "", "Any type", "Beliebiger Typ"),
        ("kernel", "", "", ""),
    ],
)
def test_value_is_written_for_users(name: str, value: object, english: str, german: str) -> None:
    found = in_words(name, value)
    assert (str(found), translated(found, GERMAN)) == (english, german)


@pytest.mark.parametrize("value", ["much", "4 GB", "G", "1:2", "-", "\N{ARABIC-INDIC DIGIT FOUR}x"])
@pytest.mark.parametrize("name", ["memory", "runtime"])
def test_value_that_is_not_valid_stays_as_it_is(name: str, value: str) -> None:
    assert in_words(name, value) == value


def test_complaint_names_its_field_in_the_readers_language() -> None:
    complaint = Complaint("runtime", "Write text or a number.")
    assert complaint.labelled == "Run time: Write text or a number."
    assert translated(complaint.labelled, GERMAN) == "Laufzeit: Geben Sie Text oder eine Zahl ein."
