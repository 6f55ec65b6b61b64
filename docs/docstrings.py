"""Docstrings of kd_jax as reStructuredText.

They are plain text: paragraphs, formulas indented by four columns, lists with "- ", and the sections below. Nothing in
them is markup but `code`.
"""

import re
from collections.abc import Iterable
from textwrap import dedent

SECTION = re.compile(r"(Args|Returns|Yields|Raises|References?|Differs): ?(.*)")
FIELDS = {"Args": "param", "Returns": "returns", "Yields": "yields", "Raises": "raises"}  # as Sphinx calls them
CODE = re.compile(r"`([^`]+)`")
MARKER = re.compile(r"\(?(\w|\d+|[ivxlcdm]+)[.)]( |$)|[-+] |\.\. |:\w", re.I)  # begins a list, a comment or a field


def to_rst(lines: list[str], names: Iterable[str] = ()) -> list[str]:
    """The lines of a docstring in reStructuredText, its sections as a list of fields.

    Args:
      lines: of the docstring, without the indent of the code.
      names: of a record's fields, whose descriptions ("name: what it is.") become fields too.
    """
    text, fields = [], []
    for block in _blocks(lines):
        if section := SECTION.fullmatch(block[0]):
            fields += _fields(section[1], ([section[2]] if section[2] else []) + block[1:])
        elif block[0].startswith("    "):
            text += ["::", "", *block, ""]
        elif block[0].startswith("- "):
            items = _split(block, starts=lambda line: line.startswith("- "))
            text += [*(f"- {prose([item[0][2:], *item[1:]])}" for item in items), ""]
        else:
            paragraph, *described = _described(block, names)
            text += [prose([paragraph]), ""] if paragraph else []
            fields += [field for item in described for field in _fields("Args", [item])]
    return [*text, *fields, ""]


def prose(lines: list[str]) -> str:
    """Lines as one line, in which nothing is markup but `code`."""
    text = " ".join(line.strip() for line in lines)
    parts = enumerate(CODE.split(text))
    escaped = (f"``{part}``" if i % 2 else re.sub(r"([\\*_|`])", r"\\\1", part) for i, part in parts)
    return "\\" * bool(MARKER.match(text)) + "".join(escaped)


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


def _described(block: list[str], names: Iterable[str]) -> list[str]:
    """A paragraph before the first description of a field, and from there on a text for each."""
    name = "|".join(names) or "(?!)"  # which no text matches
    text = " ".join(line.strip() for line in block)
    return [part.strip() for part in re.split(rf"(?:^|(?<=[.;:] ))(?=(?:(?:{name})(?:, )?)+: )", text)]


def _split(lines: list[str], starts) -> list[list[str]]:
    """Lines in groups; a group begins with a line that `starts`."""
    groups = []
    for line in lines:
        if starts(line):
            groups.append([line])
        else:
            groups[-1].append(line)
    return groups
