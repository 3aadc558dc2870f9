"""The definitions of text that PayFlow takes: visible text, names, email addresses, ids, numbers.

Every reader (serializers, query parameters, admin forms, commands) uses these functions. All are pure.

Invariants:
- Only ASCII rules change or compare what identifies somebody: `K` (the Kelvin sign) is never `k`.
- A digit is one of 0 to 9. Python's `int`, `\\d` and `isdigit` also take digits of other scripts.
"""

from __future__ import annotations

import re
import unicodedata

# --- Visible text -----------------------------------------------------------------------------------------

# Controls, surrogates, private use, line and paragraph separators (Unicode general categories).
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
# Embeddings, overrides and isolates reorder the text around them (Unicode Technical Report 36, 2.5).
_REORDERING = "\u202a-\u202e\u2066-\u2069"
# Deprecated format controls, interlinear annotations, and tags: they hide text.
_HIDING = "\u206a-\u206f\ufff9-\ufffb\U000e0000-\U000e007f"
# Letters and symbols whose glyph is empty: Hangul fillers, Khmer inherent vowels, the blank Braille pattern.
_EMPTY_GLYPHS = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U0001d159"
# Code points that no Unicode version will ever assign (Unicode, 23.7).
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17)
)
_REFUSED = re.compile(f"[{_REORDERING}{_HIDING}{_EMPTY_GLYPHS}{_NONCHARACTERS}]")
# Reserved for emoji and ideographs that are newer than this Python's Unicode.
_RESERVED_FOR_NEW = re.compile("[\U0001f000-\U0001faff\U00020000-\U0003ffff]")
# The flags of England, Scotland and Wales are the only sequences of tags in general use.
_TAG_FLAGS = re.compile(
    "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074"
    "|\U000e0077\U000e006c\U000e0073)\U000e007f"
)
# Format characters that have a glyph: Arabic, Syriac and Kaithi number signs.
_FORMAT_WITH_GLYPH = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180d\u180f]")
# Joiners shape the letters and emoji beside them; the last is Mongolian's vowel separator.
_JOINERS = frozenset("\u034f\u200c\u200d\u180e")


def is_visible(text: str) -> bool:
    """Say whether this is one line of text that shows what it holds.

    It may be in any script, with emoji, joiners and direction marks, but something of it must be visible.
    """
    text = _TAG_FLAGS.sub("\U0001f3f4", text)
    if text.isascii():
        return text.isprintable() and bool(text.strip())
    if _REFUSED.search(text):
        return False
    categories = {unicodedata.category(character) for character in text}
    if categories & _REFUSED_CATEGORIES:
        return False
    if "Cn" in categories and any(map(_is_unassigned, text)):
        return False
    return any(map(_has_glyph, text))


def is_name(text: str) -> bool:
    """Say whether this may be a name: visible text in which each invisible character shapes a visible one."""
    if not is_visible(text):
        return False
    before = " "
    for character in _TAG_FLAGS.sub("\U0001f3f4", text):
        is_selector = _VARIATION_SELECTORS.match(character) is not None
        if is_selector or character in _JOINERS:
            if not (_has_glyph(before) or unicodedata.category(before)[0] == "M"):
                return False
            # One selector a character; behind it a joiner may follow, as in many emoji.
            if is_selector and _VARIATION_SELECTORS.match(before):
                return False
        elif _is_invisible_format(character):
            return False
        before = character
    return True


def one_line(text: str, length_max: int) -> str:
    """Return visible text as it is; of other text what shows, with single spaces between; bounded.

    Other text was stored before today's rules, or is of another origin.
    """
    shown = text if is_visible(text) else " ".join(printable(text, " ").split())
    return shown[:length_max]


def printable(text: str, replacement: str) -> str:
    """Return text with a replacement for each character that breaks lines, hides, steers or reorders."""
    return "".join(replacement if _is_unprintable(character) else character for character in text)


def _is_unprintable(character: str) -> bool:
    category = unicodedata.category(character)
    return category in _REFUSED_CATEGORIES or category == "Cf" or _REFUSED.match(character) is not None


def _is_unassigned(character: str) -> bool:
    return unicodedata.category(character) == "Cn" and not _RESERVED_FOR_NEW.match(character)


def _is_invisible_format(character: str) -> bool:
    return unicodedata.category(character) == "Cf" and character not in _FORMAT_WITH_GLYPH


def _has_glyph(character: str) -> bool:
    """Say whether a character shows by itself: letters, numbers, punctuation, symbols, new emoji."""
    return (
        unicodedata.category(character)[0] in "LNPS"
        or character in _FORMAT_WITH_GLYPH
        or (_RESERVED_FOR_NEW.match(character) is not None)
    )


# --- Email addresses --------------------------------------------------------------------------------------

EMAIL_LENGTH_MAX = 254  # RFC 5321, 4.5.3.1.3, less the angle brackets
_EMAIL_LOCAL_LENGTH_MAX = 64  # RFC 5321, 4.5.3.1.1
# Without `?`, no address looks like an encoded word (RFC 2047), which some programs would decode.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_TOP_LABEL = r"([A-Za-z]{2,63}|[Xx][Nn]--[A-Za-z0-9-]{0,58}[A-Za-z0-9])"
EMAIL_PATTERN = rf"(?![^@]{{{_EMAIL_LOCAL_LENGTH_MAX + 1}}}){_ATOM}(\.{_ATOM})*@({_LABEL}\.)+{_TOP_LABEL}"
_EMAIL = re.compile(EMAIL_PATTERN, re.ASCII)
_ASCII_UPPER_TO_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def lower_ascii(text: str) -> str:
    """Return text with A to Z in lower case and every other character as it is."""
    return text.translate(_ASCII_UPPER_TO_LOWER)


def email_spelling(text: str) -> str:
    """Return the one spelling that equality on addresses compares: without blanks around it, in lower case.

    What is no address keeps its other characters, so that it equals no stored address.
    """
    return lower_ascii(text.strip(" \t"))


def is_email(text: str) -> bool:
    """Say whether this is an address: ASCII, no quoted part, a host name with a dot, no IP address.

    A domain in another script is written in its ASCII form, `xn--…` (RFC 5890).
    """
    return len(text) <= EMAIL_LENGTH_MAX and _EMAIL.fullmatch(text) is not None


# --- Ids, numbers -----------------------------------------------------------------------------------------

# What an id in a path may be made of.
ID_PATTERN = "[A-Za-z0-9_.:-]{1,160}"
_NUMBER = re.compile("0|[1-9][0-9]{0,18}", re.ASCII)


def read_number(text: str, *, minimum: int, maximum: int) -> int | None:
    """Return a whole number in plain ASCII digits, without sign, spaces or leading zeros; else None."""
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if minimum <= number <= maximum else None
