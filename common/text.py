"""Make text from outside (a model, a file, a server) harmless to a terminal."""

from __future__ import annotations

_KEPT = {0x09, 0x0A}
_UNSAFE = (
    *range(0x20),  # C0: ESC starts every escape sequence, CR and BS overwrite
    *range(0x7F, 0xA0),  # DEL and C1: 0x9B and 0x9D are CSI and OSC in one character
    0x061C,  # bidi marks, embeddings, overrides and isolates: text that reads other than it is
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),  # with the line and paragraph separators
    *range(0x2066, 0x2070),
    *range(0xD800, 0xE000),  # lone surrogates cannot be encoded: printing them would fail
)


_TABLE = {c: f"\\x{c:02x}" if c < 0x100 else f"\\u{c:04x}" for c in _UNSAFE if c not in _KEPT}
_LINE_TABLE = _TABLE | {0x09: "\\t", 0x0A: "\\n"}


def harmless(text: str) -> str:
    r"""Return `text` with what could steer a terminal as visible escapes, such as `\x1b`.

    Newline and tab stay. Escaped are the other C0 controls, DEL, C1, the bidi controls, the line
    and paragraph separators, and lone surrogates. It works character by character, so text that
    comes in pieces is as harmless as text that comes whole.
    """
    return text.translate(_TABLE)


def one_line(text: str, limit: int | None = None) -> str:
    """Return `harmless(text)` with newline and tab escaped too, at most `limit` characters."""
    if limit is None:
        return text.translate(_LINE_TABLE)
    line = text[: max(limit, 0) + 1].translate(_LINE_TABLE)  # an escape is never shorter
    return line if len(line) <= limit else line[: max(limit - 1, 0)] + "…"


def human_bytes(n_bytes: float) -> str:
    """Return a number of bytes for people: "999 B", "3.4 MB" (a MB is 10^6 bytes)."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 999.5 else f"{value:,.0f} TB"
