"""Texts of others for a terminal: names of files, words of a policy, and a log that somebody may have forged."""

__all__ = ["valid", "visible"]


def visible(text: str) -> str:
    """The same on one line, with an escape for each character that would end it, steer a terminal or not be seen."""
    return text if text.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def valid(text: str) -> str:
    """The same for JSON, with an escape for each byte of a file's name that is no UTF-8.

    Otherwise it would be half a surrogate pair, which other readers of JSON refuse, or make another text of.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
