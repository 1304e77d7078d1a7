"""Text from the network, made fit for terminals, errors and logs. Pure.

Whoever is on the other side of a connection writes what he likes: escape sequences that set a title or clear
the screen, C1 controls, changes of character set and of writing direction, line feeds that forge a line of a
log, bytes that are no UTF-8, a megabyte without an end.
"""

from __future__ import annotations

MOST = 1000
"""Characters of a whole message."""
_GONE = "\ufffd"  # what a decoder has put in the place of bytes


def printable(text: str | bytes, most: int = MOST, *, instead: str = ".") -> str:
    r"""Return a text in one line, without control characters, and of bounded length.

    What is not printable, as Unicode has it, is replaced one by one: controls, C1 and separators of lines,
    format characters (among them all that change the writing direction), surrogates, and code points without
    a meaning. Bytes that are no UTF-8 show as ``\xff``. Fit text comes back as it is, so twice does no harm.

    :param most: so many characters at most; of a longer text the beginning is left, and "..." after it
    :param instead: what stands for a character that cannot be shown
    """
    cut = len(text) > most  # first of all: nobody looks at the rest of a megabyte
    if isinstance(text, bytes):
        # A character has four bytes at most; one that is cut in two is left out by the cut that follows.
        text = text[: 4 * most + 4].decode("utf-8", "backslashreplace")
        cut = len(text) > most
    elif cut:
        text = text[:most]
    if cut:
        text = f"{text[: max(0, most - 3)]}..."
    if text.isprintable() and _GONE not in text:
        return text
    return "".join(char if char.isprintable() and char != _GONE else instead for char in text)
