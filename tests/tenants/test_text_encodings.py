"""Encodings of uploaded files: no text is read in another script than its own."""

import pytest
from django.core.exceptions import ValidationError

from tenants.infrastructure.text_encodings import ENCODINGS, decode

KOREAN = [
    "온실 1동",
    "온도센서",
    "서울 본사 3층",
    "김해 제2농장 ①동",
    "기온 20℃ · 습도 60%",
    "이순신",
    "제주 감귤 하우스",
]
# Texts of other scripts, each in the encodings that spreadsheet programs write in its countries.
FOREIGN = [
    *((name, text) for name in ("cp1251", "koi8-r", "iso-8859-5", "cp866") for text in ("Офис 1", "ТЕПЛИЦА", "АВТО")),
    *(("gbk", text) for text in ("北京", "上海温室1", "传感器", "仓库")),
    *(("big5", text) for text in ("台北", "溫室", "感測器")),
    *(("shift_jis", text) for text in ("東京", "温室", "センサー", "ｾﾝｻ1")),
    *(("euc-jp", text) for text in ("東京", "センサー", "温室1")),
    *(("cp1252", text) for text in ("Gewächshaus", "Créée", "São Paulo", "Größe", "Büro °C", "µg")),
    *(("cp1253", text) for text in ("Αθήνα", "θερμοκήπιο", "ΑΒΓ")),
    *(("cp874", text) for text in ("เรือนกระจก", "กทม")),
    *(("cp1254", text) for text in ("Şişli", "İzmir", "Sıcaklık")),
    *(("cp1250", text) for text in ("Łódź", "Říčany", "szklarnia ąę")),
    *(("cp1255", text) for text in ("חממה", "גג")),
    *(("cp1256", text) for text in ("دفيئة", "مخزن")),
    *(("mac-roman", text) for text in ("Gewächshaus", "Créée")),
    *(("cp1257", text) for text in ("Šiltnamis ąč", "Rīga")),
]


def table(text: str) -> str:
    return f"name,place\n{text},x\n"


@pytest.mark.parametrize("text", KOREAN)
def test_korean_is_read_without_its_encoding(text: str) -> None:
    assert decode(table(text).encode("cp949")) == (table(text), "cp949")


@pytest.mark.parametrize(("encoding", "text"), FOREIGN)
def test_another_script_is_read_as_given_or_not_at_all(encoding: str, text: str) -> None:
    content = table(text).encode(encoding)
    with pytest.raises(ValidationError, match="its encoding must be given"):
        decode(content)
    assert decode(content, encoding) == (table(text), encoding)


@pytest.mark.parametrize("text", [*KOREAN, "Офис", "北京", "Größe", "plain"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_is_recognized(text: str, encoding: str) -> None:
    found, used = decode(table(text).encode(encoding))
    assert found == table(text)
    assert used == encoding.removesuffix("-sig")


def test_few_signs_alone_are_not_korean() -> None:
    with pytest.raises(ValidationError):
        decode(table("20 ℃").encode("cp949"))
    assert decode(table("20 ℃").encode("cp949"), "cp949")[0] == table("20 ℃")


def test_hangul_that_nobody_writes_is_not_recognized() -> None:
    """Two bytes of any script can be a syllable; those of chance are rare ones."""
    with pytest.raises(ValidationError):
        decode(table("굇쑴 눈먁포").encode("cp949"))


@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        ("é".encode("cp1252"), "utf-8", "is not utf-8 text: byte 1"),
        ("é".encode("utf-8-sig"), "cp1252", "is UTF-8, as its first bytes state, and not cp1252"),
        (b"\xff\xfea", "", "is not utf-16 text"),
        (b"a", "latin", "'latin' is not a known encoding"),
        (b"a", "unicode_escape", "is not a known encoding"),
        (b"a", "x" * 1000, "is not a known encoding"),
    ],
)
def test_a_wrong_encoding_is_refused(content: bytes, encoding: str, words: str) -> None:
    with pytest.raises(ValidationError) as error:
        decode(content, encoding)
    assert words in " ".join(error.value.messages)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_known_encoding_reads_a_table(encoding: str) -> None:
    codec = encoding if encoding != "utf-16" else "utf-16-le"
    assert decode(table("a").encode(codec), encoding) == (table("a"), encoding)
