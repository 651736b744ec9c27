"""The doctor's quick hints: what can be told of samples at once, without decoding them and without torch."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import UInt64
from numpy import ndarray

from imprint.serve.state import State, Take

DARK = 60  # of 255: where not even the brightest hundredth of an image is brighter, it is too dark
ALIKE_BITS = 4  # of 64 in which near copies differ at most
TELLING_BITS = 12  # of 64 that are set where there is enough in a photo to tell it from others
UNEVEN = 5  # times as many images as another class
MOST_TOLD = 300  # samples of a finding, and conflicts, that are told at once; of more, the next ones afterwards


def alike(prints: UInt64[ndarray, " n"]) -> int:
    """Count the images of one take that nearly repeat an earlier one of it."""
    kept = np.empty(0, dtype=np.uint64)
    repeated = 0
    for one in prints:
        if len(kept) and int(np.bitwise_count(kept ^ one).min()) <= ALIKE_BITS:
            repeated += 1
        else:
            kept = np.append(kept, one)
    return repeated


def quick_hints(state: State, known: dict[str, tuple[int, int]]) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """Give the hints of each class, and findings that concern samples; `known` keeps what is counted of a take."""
    hints: dict[str, list[str]] = {}
    counts = {key: sum(len(take.samples) for take in state.takes_of(key)) for key in state.classes}
    for key in state.classes:
        takes = state.takes_of(key)
        dark = sum(_is_dark(state, take, sha) for take in takes for sha in take.samples)
        repeated = sum(_alike_in(state, take, known) for take in takes)
        hints[key] = [f"{dark} too dark"] * (dark > 0) + [f"{repeated} too alike"] * (repeated > 0)
    findings = [*_conflicts(state), *_copies_in_exam(state), *_uneven(state, counts)]
    for key in state.classes:
        places = [sha for take in state.takes_of(key) for sha in take.samples if _is_dark(state, take, sha)]
        if places:
            findings.append(finding("dark", places, "Too dark: turn on a light.", key))
    return hints, findings


def finding(kind: str, where: list[str], message: str, class_id: str | None, blocks: bool = False) -> dict[str, Any]:
    """Make a finding as the page takes it."""
    return {"kind": kind, "where": where[:MOST_TOLD], "message": message, "class": class_id, "blocks": blocks}


def conflicts(state: State) -> dict[str, list[str]]:
    """Give each sample that is in several classes, with these classes' keys."""
    classes: dict[str, dict[str, None]] = defaultdict(dict)
    for sha, take in state.samples():
        classes[sha][take.class_id] = None
    return {sha: list(keys) for sha, keys in classes.items() if len(keys) > 1}


def _conflicts(state: State) -> list[dict[str, Any]]:
    found = []
    for sha, keys in islice(conflicts(state).items(), MOST_TOLD):
        names = " and ".join(state.classes[key].name for key in keys)
        message = f"The same picture is in {names}. Choose one."
        found.append(finding("conflict", [sha], message, keys[0], blocks=True) | {"classes": keys})
    return found


def _copies_in_exam(state: State) -> list[dict[str, Any]]:
    """Find photos that train and look the same as one of the exam; the one that trains comes first."""
    exam: dict[int, str] = {}
    for sha, take in state.samples():
        if take.exam and take.kind != "drawing":
            exam.setdefault(state.looks[sha]["print"], sha)
    found = []
    for sha, take in state.samples() if exam else ():
        seen = int(state.looks[sha]["print"])
        copy = exam.get(seen) if seen.bit_count() >= TELLING_BITS else None
        if copy not in (None, sha) and not take.exam and take.kind != "drawing":
            message = "Looks the same as a picture of the exam, so the exam would be too easy."
            found.append(finding("exam", [sha, str(copy)], message, take.class_id))
    return found[:MOST_TOLD]


def _uneven(state: State, counts: dict[str, int]) -> list[dict[str, Any]]:
    filled = {key: count for key, count in counts.items() if count}
    if len(filled) < 2:
        return []
    most, fewest = max(filled, key=lambda key: filled[key]), min(filled, key=lambda key: filled[key])
    if filled[most] < UNEVEN * filled[fewest]:
        return []
    names = state.classes[most].name, state.classes[fewest].name
    message = f"{names[0]} has {filled[most]} pictures, {names[1]} only {filled[fewest]}: add more of {names[1]}."
    return [finding("imbalance", [], message, fewest)]


def _is_dark(state: State, take: Take, sha: str) -> bool:
    return take.kind != "drawing" and int(state.looks[sha]["light"]) < DARK


def _alike_in(state: State, take: Take, known: dict[str, tuple[int, int]]) -> int:
    """Count near copies within a take, anew only where its number of samples has changed."""
    if take.kind == "drawing" or len(take.samples) < 2:
        return 0
    if (found := known.get(take.id)) is None or found[0] != len(take.samples):
        prints = np.array([state.looks[sha]["print"] for sha in take.samples], dtype=np.uint64)
        known[take.id] = found = len(take.samples), alike(prints)
    return found[1]
