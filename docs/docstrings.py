"""Docstrings of kd_jax as reStructuredText.

They are plain text: paragraphs, formulas indented by four columns, lists with "- ", and the sections below. Nothing in
them is markup but `code`.
"""

import re
from textwrap import dedent

SECTION = re.compile(r"(Args|Returns|Yields|Raises|References?|Differs): ?(.*)")
FIELDS = {"Args": "param", "Returns": "returns", "Yields": "yields", "Raises": "raises"}  # as Sphinx calls them
CODE = re.compile(r"`([^`]+)`")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring in reStructuredText, its sections as a list of fields."""
    text, fields = [], []
    for block in _blocks(lines):
        if section := SECTION.fullmatch(block[0]):
            fields += _fields(section[1], ([section[2]] if section[2] else []) + block[1:])
        elif block[0].startswith("    "):
            text += ["::", "", *block, ""]
        elif block[0].startswith("- "):
            items = _split(block, starts=lambda line: line.startswith("- "))
            text += [*(f"- {prose(item)[2:]}" for item in items), ""]
        else:
            text += [prose(block), ""]
    return [*text, *fields, ""]


def prose(lines: list[str]) -> str:
    """Lines as one line, in which nothing is markup but `code`."""
    parts = CODE.split(" ".join(line.strip() for line in lines))
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([\\*_|`])", r"\\\1", part) for i, part in enumerate(parts))


def _blocks(lines: list[str]) -> list[list[str]]:
    """Paragraphs, formulas, lists and sections. A section ends where a line is not indented."""
    blocks, before = [], ""
    for line in lines:
        is_new = not before or SECTION.fullmatch(line)
        indented = line.startswith(" ")
        if blocks and SECTION.fullmatch(blocks[-1][0]) and indented:
            is_new = False
        elif blocks and indented and blocks[-1][0].startswith("    "):
            is_new = False
        if line and is_new:
            blocks.append([line])
        elif line:
            blocks[-1] += [""] * (not before) + [line]
        before = line
    return blocks


def _fields(section: str, lines: list[str]) -> list[str]:
    if section not in ("Args", "Raises"):
        return [f":{FIELDS.get(section, section)}: {prose(lines)}"]
    lines = dedent("\n".join(lines)).splitlines()
    fields = []
    for item in _split(lines, starts=lambda line: not line.startswith(" ")):
        names, _, text = "\n".join(item).partition(": ")
        fields += [f":{FIELDS[section]} {prose([name])}: {prose(text.splitlines())}" for name in names.split(", ")]
    return fields


def _split(lines: list[str], starts) -> list[list[str]]:
    """Lines in groups; a group begins with a line that `starts`."""
    groups = []
    for line in lines:
        if starts(line):
            groups.append([line])
        else:
            groups[-1].append(line)
    return groups
