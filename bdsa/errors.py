"""The one exception that users see, and the nearest right spelling."""
from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, said in one line: the value, the rule and, where there is one, the right spelling.

    Entry points print it without a traceback and exit with code 1. Library callers can catch it
    as a ValueError.

    Attributes:
        everywhere: whether every process of a run knows it, so that only rank 0 need print it.
    """

    everywhere = False


def nearest(word: object, known: Iterable[object]) -> str:
    """Return " (did you mean 'x'?)" for the known spelling nearest to `word`, or an empty string."""
    by_text = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(word).lower(), by_text, n=1, cutoff=0.6)
    return f" (did you mean '{by_text[close[0]]}'?)" if close else ""


def first_line(error: BaseException) -> str:
    """What an error says, in its first line; its kind where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def unknown(what: str, word: object, known: Iterable[object], limit: int = 12) -> UserError:
    """Build the error for a name that is not among `known`; long lists are cut to `limit` names."""
    names = [str(k) for k in known]
    shown = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return UserError(f"unknown {what} '{word}'{nearest(word, names)}; known: {shown}")
