"""What is said of texts that are not UTF-8."""

import pytest

from finetune_trainer.data.charset import encoding_of, not_utf8


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("un café très cher,neg", "cp1252"),
        ("Große Überraschung – “schön”", "cp1252"),
        ("5 € für ein Bier", "cp1252"),
        ("un café très cher,neg", "macintosh"),
        ("очень плохой фильм,neg", "cp1251"),
        ("Очень плохой фильм,neg", "koi8-r"),
        ("とても悪い映画です,neg", "cp932"),
        ("とても悪い映画です,neg", "euc-jp"),
        ("아주 나쁜 영화,neg", "euc-kr"),
        ("非常差的电影,neg", "gb18030"),
    ],
)
def test_the_encoding_is_the_one_in_which_the_characters_are_usual(text, encoding):
    assert encoding_of(text.encode(encoding)) == encoding


@pytest.mark.parametrize("raw", [b"abcdef \x81\x01", b"some text \xff\xfe\x01\x90"])
def test_bytes_that_are_no_usual_text_have_no_encoding(raw):
    assert encoding_of(raw) is None


def test_the_byte_is_named_and_the_text_around_it_is_shown():
    with pytest.raises(UnicodeDecodeError) as caught:
        b'"a rather long sentence before the caf\xe9 and much behind it",neg'.decode()
    assert not_utf8(caught.value) == (
        "is not UTF-8 (byte 39 of the line is 0xE9); as cp1252 it reads 'before the café and much behi': if that is"
        " right, convert the file with iconv -f cp1252 -t utf-8"
    )
