"""What a thread reads ahead: in order, no further than asked, ended when nobody wants it; errors reach the caller."""

import gc
import threading
import weakref

import pytest

from ctpatch.loading.ahead import ReadAhead


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "ctpatch-loader"}


class Result:
    """Something that can be looked for when nobody should hold it any more."""

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("ahead", [0, 1, 2, 100, 10**15])
def test_everything_comes_once_and_in_order(ahead: int) -> None:
    before = threads()
    reader = ReadAhead(lambda number: number * number, list(range(40)), ahead)
    assert list(reader) == [number * number for number in range(40)]
    assert list(reader) == []
    assert threads() <= before
    assert list(ReadAhead(str, [], ahead)) == []


def test_it_reads_as_far_ahead_as_asked() -> None:
    begun: list[int] = []
    there = [threading.Event() for _ in range(20)]

    def read(number: int) -> int:
        begun.append(number)
        there[number].set()
        return number

    reader = ReadAhead(read, list(range(20)), 3)
    there[2].wait()
    for taken in range(5):
        assert next(reader) == taken
        there[taken + 3].wait()  # it does read that far
    assert max(begun) == 4 + 3  # and cannot have read further: each needs an order, and no more were given
    reader.close()
    assert begun == list(range(8))


@pytest.mark.parametrize("ahead", [0, 2])
def test_it_holds_no_result_that_it_gave_out(ahead: int) -> None:
    reader = ReadAhead(Result, list(range(6)), ahead)
    result = next(reader)
    alive = weakref.ref(result)
    next(reader)  # the thread is past the first one
    assert result.number == 0
    del result
    assert alive() is None
    reader.close()


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_comes_in_its_turn_and_ends_it(ahead: int) -> None:
    def read(number: int) -> int:
        if number == 3:
            raise LookupError("the third")
        return number

    before = threads()
    reader = ReadAhead(read, list(range(6)), ahead)
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="the third"):
        next(reader)
    assert list(reader) == []
    assert threads() <= before


def test_it_ends_when_nobody_holds_it() -> None:
    before = threads()
    reader = ReadAhead(Result, list(range(6)), 2)
    next(reader)
    assert len(threads() - before) == 1
    del reader
    assert threads() <= before
    circle: list[object] = [ReadAhead(Result, list(range(6)), 2)]
    circle.append(circle)
    del circle
    gc.collect()
    assert threads() <= before


def test_closed_it_gives_nothing() -> None:
    reader = ReadAhead(str, list(range(6)), 2)
    assert next(reader) == "0"
    reader.close()
    reader.close()
    with pytest.raises(StopIteration):
        next(reader)
