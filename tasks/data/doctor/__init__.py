"""The data doctor: each check adds what it finds in mapped columns to a report and changes nothing."""

from __future__ import annotations

from tasks.data.doctor.labels import (
    check_class_counts,
    check_label_spelling,
    check_missing_labels,
    check_numbers,
    check_switches,
    check_unseen,
)
from tasks.data.doctor.repeats import check_conflicts, check_duplicates, check_leakage, normalise
from tasks.data.doctor.texts import check_header, check_lengths, check_text, check_windows

__all__ = [
    "check_class_counts",
    "check_conflicts",
    "check_duplicates",
    "check_header",
    "check_label_spelling",
    "check_leakage",
    "check_lengths",
    "check_missing_labels",
    "check_numbers",
    "check_switches",
    "check_text",
    "check_unseen",
    "check_windows",
    "normalise",
]
