"""What is wrong with a command line, in one line that says what to do."""

from __future__ import annotations

import re

_VALUES = (
    (r"Input should be greater than or equal to (\S+)", r"must be at least \1"),
    (r"Input should be less than or equal to (\S+)", r"must be at most \1"),
    (r"Input should be greater than (\S+)", r"must be more than \1"),
    (r"Input should be less than (\S+)", r"must be less than \1"),
    (r"(\S+) is not in the range x>=(\S+)\.", r"must be at least \2"),
    (r"Input should be a valid integer.*|'.*' is not a valid integer\.", "must be a whole number"),
    (r"Input should be a valid number.*|'.*' is not a valid float\.", "must be a number"),
)
_WHOLE = (
    (r"Option '?([^' ]+)'? requires (?:an|\d+) arguments?\.", r"\1 wants a value after it"),
    (r"Missing option '([^']+)'.*", r"give \1"),
    (r"Missing argument '?([^']+?)'?\.", r"give \1; --help says what it is"),
    (r"No such option: (\S+?)\.?", r"there is no option \1; --help lists them"),
    (
        r"No such option: (\S+?)\.? \(Possible options: (.*)\)",
        r"there is no option \1; there is \2",
    ),
    (r"No such option: (\S+?)\.? Did you mean (.*)\?", r"there is no option \1; there is \2"),
    (r"No such command '([^']*)'\.?.*", r"there is no command \1; --help lists them"),
    (
        r"Got unexpected extra argument\S* \((.*)\)",
        r"\1: too many words; quote what belongs together",
    ),
)


def misuse(message: str) -> str:
    """The parser's message in our words; what is not known stays as it is.

    Args:
        message: such as "Invalid value for '--repeats': Input should be ...".
    """
    if found := re.fullmatch(r"Invalid value for '?([^' ]+)(?: [^']*)?'?: (.*)", message, re.S):
        option, wrong = found.groups()
        return f"{option} {_said(wrong, _VALUES) or f'cannot be that: {wrong}'}"
    return _said(message, _WHOLE) or message


def _said(text: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, words in table:
        if found := re.fullmatch(pattern, text, re.S):
            return found.expand(words)
    return None
