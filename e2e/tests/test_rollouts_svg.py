# SPDX-License-Identifier: Apache-2.0
"""The charts of rollouts: steps that hold until the next change, within their frame, and well-formed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from e2e.rollouts.svg import HEIGHT, LEFT, RIGHT, WIDTH, Chart, document

SVG = "{http://www.w3.org/2000/svg}"


def chart(*points: tuple[float, float]) -> Chart:
    return Chart(title="a < b", lines={"down": points}, limit=("limit & more", 4), marks={"undo": 5}, end=10)


def test_a_document_is_well_formed_and_says_what_it_shows() -> None:
    root = ElementTree.fromstring(document("title & more", [chart((0, 1)), chart((0, 2))]))  # noqa: S314  # our own
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert root.findtext(f"{SVG}title") == "title & more"
    assert words.count("a < b") == words.count("limit & more") == words.count("undo") == 2
    assert root.attrib["width"] == str(WIDTH)


def test_a_value_holds_until_it_changes_and_equal_ones_are_left_out() -> None:
    text = document("t", [chart((0, 0), (2, 0), (5, 4), (5, 4), (10, 2))])
    (line,) = re.findall(r'<path d="(M[^"]*)" fill="none"', text)
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    assert line.startswith(f"M{LEFT:.1f} ")
    assert f"H{middle:.1f}V" in line
    assert line.count("V") == 2
    assert line.endswith(f"H{WIDTH - RIGHT:.1f}")


def test_every_line_stays_within_its_frame() -> None:
    text = document("t", [chart((0, 0), (5, 40), (10, 3))])
    (line,) = re.findall(r'<path d="(M[^"]*)" fill="none"', text)
    assert all(0 <= float(y) <= HEIGHT for y in re.findall(r"V([\d.]+)", line))
