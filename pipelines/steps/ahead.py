"""Batches side by side, their results in order, and never more of them in memory than threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")


def ahead(work: Callable[[Given], Result], each: Iterable[Given], threads: int) -> Iterator[Result]:
    """The work's results in the order of what was given; while one is looked at the next ones are made.

    What a thread raises is raised here in its turn, after the results before it; nothing new begins then.
    """
    given = iter(each)
    with ThreadPoolExecutor(threads) as pool:
        begun = deque(pool.submit(work, one) for one in islice(given, threads))
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(work, one) for one in islice(given, 1))
            yield result
