"""Encodings of uploaded texts: recognized only where no other one is likely, and otherwise given by the sender.

Bytes of one script are often valid in the encoding of another: "Офис" in Windows-1251 is two Chinese characters in
CP949. A file of unknown encoding is therefore read as CP949 only if the result is Korean as people write it.
"""

from collections.abc import Iterator

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

# The encodings that an upload can name, by script; the first name of each is the usual one.
ENCODINGS = (
    *(
        "utf-8",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "cp949",
        "euc-kr",
        "shift_jis",
        "cp932",
        "euc-jp",
        "gbk",
        "gb18030",
        "big5",
    ),
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("iso-8859-1", "iso-8859-2", "iso-8859-5", "iso-8859-7", "iso-8859-9", "iso-8859-15", "koi8-r", "koi8-u"),
    *("cp437", "cp850", "cp852", "cp866", "mac-roman"),
)
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_CODECS = {"utf-8": "utf-8-sig"}
# Beside Hangul and ASCII, what Korean tables contain.
_KOREAN_SIGNS = frozenset("°℃℉·㎡㎥㎍㎎㎏㎜㎝㎞％‰±×Ω㏀μ→←↑↓…“”‘’～※①②③④⑤⑥⑦⑧⑨⑩　")
# Three of four syllables of Korean texts are among these 500; of other scripts read as CP949, one of five.
_USUAL_SHARE = 0.7
_USUAL_SYLLABLES = frozenset(
    "가각간갈감갑값강같개객갱거건걸검것게겠겨격결경계고곧곱곳공곶과곽관광교구국군권귀규귤그근글금급기긴길김까께꽃꾸꿀"
    "뀌끊끝나난날남납났낮내낼냅냉너넌넘넣네넷년노논농높누눌뉴는늘능늦니닌닐닙다단닫달담답당대댓더덕덟데덴델도독돈돌동"
    "되된될됨됩두둑둘뒤드든들등디딩따딸때또뚝뜰라락란람랍래랜랫량러런럼레렉려력련렬렸로록롤료루룹류르른를름릅리릭릴림"
    "립릿링마막만많말맙맞매맨맵맹머먼메멘멤며면명몇모목못무문물므미민밀및밑바박밖반받발밝밤방밭배백밸버번범벗베벨벼벽"
    "변별병볕보복본볼봅부북분불붙뷰브블비빈빛빠빨뿌쁜사삭산살삼상새색샘생샤서석선설섬섯성세센셀셋셔션셨소속손솔솟송수"
    "순숫숭숲쉬스슬습시식신실심십싹쓰쓸씁씨아안않알압앗았앙앞애액앱야약양어언얼엄업없었에엔엘여역연열염였영옆예오옥온"
    "올옵와완왕외왼요용우운울움웃워원월웨웹위유육윤으은을음읍응의이인일읽잃임입있잊잎자작잘잠장재저적전절점접정젖제젝"
    "져조존종좋주준줄중즈즘증지직진집짓짜짧째쪽차참창찾채처천첫청체쳐초총최추축출충취츠측층치칭카칸캣커컨컴케켰코콘콤"
    "쿠쿨쿼크큰클큽키킹타탁탄탈태택터턴털테텍텐텔템토통투튜트특튼틀티틸팅파팜패팬퍼펌페편폐포폴폼표풍프픈플피픽핀필핑"
    "하학한할함합항해했행향허헌헤현형호홈홉홍화확환활황회횟효후훈흙흰히"
)


def decode(content: bytes, encoding: str = "") -> tuple[str, str]:
    """Return the text, and the encoding that was used: the given one, or the one that the content shows.

    Raises ValidationError where neither is possible.
    """
    if encoding and encoding not in ENCODINGS:
        raise ValidationError(
            _("%(encoding)s is not a known encoding. Known encodings: %(known)s.")
            % {"encoding": repr(encoding[:40]), "known": ", ".join(ENCODINGS)}
        )
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "")
    if encoding and marked and not encoding.startswith(marked):
        raise ValidationError(
            _("The file is %(found)s, as its first bytes state, and not %(given)s.")
            % {"found": marked.upper(), "given": encoding}
        )
    for name in (encoding or marked,) if encoding or marked else _recognized(content):
        try:
            return content.decode(_CODECS.get(name, name)).removeprefix("\ufeff"), name
        except UnicodeDecodeError as error:
            if encoding or marked:
                raise ValidationError(
                    _("The file is not %(encoding)s text: byte %(place)d cannot be read.")
                    % {"encoding": name, "place": error.start + 1}
                ) from error
    raise ValidationError(
        _(
            "The file must be UTF-8 or CP949 (Korean) text, or its encoding must be given: for example cp1252 (Western "
            "European), cp1251 (Cyrillic), shift_jis, gbk or big5. Or save it as “CSV UTF-8” or as XLSX."
        )
    )


def _recognized(content: bytes) -> Iterator[str]:
    if (wide := _utf_16(content)) is not None:
        yield wide
    yield "utf-8"
    try:
        text = content.decode("cp949")
    except UnicodeDecodeError:
        return
    if _is_korean(text):
        yield "cp949"


def _utf_16(content: bytes) -> str | None:
    """Return the UTF-16 without a byte order mark that the content is in: every other byte of ASCII is 0 there."""
    begin = content[:200]
    half = len(begin) // 2
    if half and begin[1::2].count(0) > half // 2:
        return "utf-16-le"
    return "utf-16-be" if half and begin[::2].count(0) > half // 2 else None


def _is_korean(text: str) -> bool:
    """Return whether the text is ASCII and Korean, with usual syllables."""
    foreign = [letter for letter in text if letter > "\x7f"]
    hangul = [letter for letter in foreign if "가" <= letter <= "힣"]
    if not hangul or any(letter not in _KOREAN_SIGNS for letter in foreign if not "가" <= letter <= "힣"):
        return False
    return sum(letter in _USUAL_SYLLABLES for letter in hangul) >= _USUAL_SHARE * len(hangul)
