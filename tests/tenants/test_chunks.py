"""Chunks: everything once, in order."""

from tenants.infrastructure.chunks import chunks


def test_chunks_hold_everything_in_order() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks("abcd", 2)) == [["a", "b"], ["c", "d"]]
    assert list(chunks(iter(()), 3)) == []


def test_an_iterator_is_read_chunk_by_chunk() -> None:
    source = iter(range(10))
    assert next(chunks(source, 4)) == [0, 1, 2, 3]
    assert next(source) == 4
