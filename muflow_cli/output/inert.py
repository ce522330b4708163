"""Text from outside (file names, error messages) made harmless for terminals and spreadsheets, without loss."""

from __future__ import annotations

import re
from typing import Final

_NAMED: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BACK: Final = {escaped: character for character, escaped in _NAMED.items()}
_ESCAPE: Final = re.compile(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")

# What a spreadsheet may take for the start of a formula: ASCII and the full-width forms that some locales accept,
# and the apostrophe itself, so that removing one leading apostrophe always gives back the text.
_FORMULA: Final = tuple("=+-@'\uff1d\uff0b\uff0d\uff20")


def escape(text: str) -> str:
    r"""Text in which every character that is not printable is written out, so that a terminal shows it as it is.

    Backslash, newline, return and tab become `\\ \n \r \t`; a byte of a name that is not UTF-8 becomes `\xNN`;
    other control characters, direction overrides, zero-width and unassigned characters become `\uNNNN` or
    `\UNNNNNNNN`. `unescape` gives back the text.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escape_one, text))


def _escape_one(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def inert(text: str) -> str:
    """As `escape`, but backslashes stay: for whole sentences, parts of which may be escaped already."""
    return text if text.isprintable() else "".join(c if c == "\\" else _escape_one(c) for c in text)


def unescape(text: str) -> str:
    """Inverse of `escape`."""
    return _ESCAPE.sub(_unescape_one, text)


def _unescape_one(match: re.Match[str]) -> str:
    escaped = match.group()
    if escaped in _BACK:
        return _BACK[escaped]
    code = int(escaped[2:], 16)
    return chr(code + 0xDC00) if escaped[1] == "x" else chr(code)


def cell(text: str) -> str:
    """Text for a spreadsheet: escaped, with a leading apostrophe where a spreadsheet could see a formula.

    To get the text back: remove one leading apostrophe if there is one, then `unescape`.
    """
    escaped = escape(text)
    return f"'{escaped}" if escaped.lstrip().startswith(_FORMULA) else escaped


def uncell(text: str) -> str:
    """Inverse of `cell`."""
    return unescape(text.removeprefix("'"))
