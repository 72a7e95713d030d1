"""What a text that is not UTF-8 is probably encoded in."""

import re

SHOWN = 30
"""Characters shown of how the text would read."""
_EAST_ASIAN = r"\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef"
_DENSE = {
    "cp1251": r"[А-яЁё«»—–№]+",
    "koi8-r": r"[А-яЁё]+",
    "cp932": rf"[{_EAST_ASIAN}]*[\u3040-\u30ff][{_EAST_ASIAN}]*",
    "euc-jp": rf"[{_EAST_ASIAN}]*[\u3040-\u30ff][{_EAST_ASIAN}]*",
    "euc-kr": r"[\uac00-\ud7a3]+",
    "gb18030": r"[\u3000-\u3029\u4e00-\u9fff\uff01-\uff5e]+",
    "big5": r"[\u3000-\u3029\u4e00-\u9fff\uff01-\uff5e]+",
}
"""Encodings, as iconv names them, of scripts without Latin letters, and the characters that their texts have."""
_SPARSE = {
    "cp1252": r"[À-ÖØ-öø-ÿŒœŠšŽžŸ‘’“”„–—…€«»°§£ªº´·¿¡\xa0]+",
    "macintosh": r"[À-ÖØ-öø-ÿŒœŸ‘’“”–—…€«»°§£¿¡\xa0]+",
}
"""Encodings of Latin letters with accents."""


def encoding_of(raw: bytes) -> str | None:
    """The first encoding in which all characters beyond ASCII are usual ones; None if there is none."""
    high = sum(byte > 0x7F for byte in raw)
    letters = len(re.findall(rb"[A-Za-z]", raw))
    for encoding, usual in (_DENSE if high * 2 > letters else _SPARSE).items():
        try:
            beyond = "".join(character for character in raw.decode(encoding) if character > "\x7f")
        except UnicodeDecodeError:
            continue
        if re.fullmatch(usual, beyond) and not _case_is_swapped(beyond):
            return encoding
    return None


def _case_is_swapped(text: str) -> bool:
    """cp1251 and KOI8-R have the small letters of one where the other has the capitals."""
    return sum(map(str.isupper, text)) > sum(map(str.islower, text))


def not_utf8(error: UnicodeDecodeError, within: str = "line") -> str:
    """The reason of an error: which byte is not UTF-8, and what the text probably is."""
    raw: bytes = error.object
    place = f"is not UTF-8 (byte {error.start + 1} of the {within} is 0x{raw[error.start]:02X})"
    encoding = encoding_of(raw)
    if encoding is None:
        return f"{place}; save the file as UTF-8"
    start = len(raw[: error.start].decode(encoding, "ignore"))
    shown = raw.decode(encoding)[max(0, start - SHOWN // 2) : start + SHOWN // 2].strip()
    return (
        f"{place}; as {encoding} it reads {shown!r}: if that is right, convert the file with"
        f" iconv -f {encoding} -t utf-8"
    )
