"""The gate and the batcher, with a model that ends a batch when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from squeezebert_fast.errors import InputError
from squeezebert_fast.serving.batching import Batcher, Gate, Ticket
from squeezebert_fast.serving.refusals import Refused
from squeezebert_fast.serving.work import Done, Outcome, Work
from squeezebert_fast.tables.rows import Record

MAX_TEXTS = 4


def work(*texts: str) -> Work:
    return Work(tuple(map(Record, texts)))


class Model:
    """batches: the texts of each that has begun. A batch ends when `release` is set."""

    def __init__(self, max_queue: int = 100) -> None:
        self.gate = Gate(MAX_TEXTS)
        self.batches: list[list[str]] = []
        self.release = asyncio.Event()
        self.ask = Batcher(self.gate, self.compute, self.batched, max_queue=max_queue)
        self._queue: list[tuple[Ticket, asyncio.Future[Outcome]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def compute(self, tickets: list[Ticket]) -> list[Outcome]:
        self.gate.begin(tickets)
        self.batches.append([record.text for ticket in tickets for record in ticket.work.records])
        try:
            await self.release.wait()
        finally:
            next_batch = self.gate.end()
            if next_batch is not None:
                await next_batch
        return [self._outcome(ticket.work) for ticket in tickets]

    def _outcome(self, work: Work) -> Outcome:
        texts = [record.text for record in work.records]
        return (
            InputError("a bad text") if "bad" in texts else Done([text.upper() for text in texts], len(texts))
        )

    async def batched(self, ticket: Ticket) -> Outcome:
        """As serve.batch: all that is there when the loop comes to it is a batch, without what is cancelled."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((ticket, future))
        if len(self._queue) == 1:
            asyncio.get_running_loop().call_soon(self._start)
        return await future

    def _start(self) -> None:
        wanted = [(ticket, future) for ticket, future in self._queue if not future.cancelled()]
        self._queue.clear()
        if wanted:
            task = asyncio.create_task(self._run(wanted))
            self._tasks.add(task)

    async def _run(self, wanted: list[tuple[Ticket, asyncio.Future[Outcome]]]) -> None:
        outcomes = await self.compute([ticket for ticket, _ in wanted])
        for (_, future), outcome in zip(wanted, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def running(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """The test in an event loop, in bounded time: a gate that stays shut must not hang the suite."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


@running
async def test_what_comes_while_a_batch_runs_makes_the_next_one() -> None:
    model = Model()
    first = asyncio.create_task(model.ask(work("a")))
    await settle()
    others = [asyncio.create_task(model.ask(work(text))) for text in "bcd"]
    await settle()
    assert model.batches == [["a"]]
    assert model.gate.waiting == 3
    model.release.set()
    assert [(await task).answers for task in (first, *others)] == [["A"], ["B"], ["C"], ["D"]]
    assert model.batches == [["a"], ["b", "c", "d"]]
    assert model.gate.is_idle


@running
async def test_a_batch_holds_as_many_texts_as_it_may_and_the_rest_comes_next() -> None:
    model = Model()
    tasks = [asyncio.create_task(model.ask(work(*texts))) for texts in ("a", "bb", "cc", "dd", "ee", "f")]
    await settle()
    model.release.set()
    assert [(await task).answers for task in tasks] == [
        [*texts.upper()] for texts in ("a", "bb", "cc", "dd", "ee", "f")
    ]
    assert [len(batch) for batch in model.batches] == [
        1,
        2,
        4,
        3,
    ]  # the first went alone, and bb along with it


@running
async def test_a_request_of_more_texts_than_a_batch_comes_in_parts() -> None:
    model = Model()
    model.release.set()
    done = await model.ask(work(*"abcdefghi"))
    assert done.answers == [*"ABCDEFGHI"]
    assert done.tokens == 9
    assert max(map(len, model.batches)) <= MAX_TEXTS


def test_a_part_has_at_most_so_many_texts_and_characters() -> None:
    def parts(*texts: str) -> list[str]:
        return ["+".join(record.text for record in part.records) for part in work(*texts).parts(3, 6)]

    assert parts("a") == ["a"]
    assert parts(*"abcdefg") == ["a+b+c", "d+e+f", "g"]
    assert parts("aaa", "bbb", "c", "dddddddd", "e") == ["aaa+bbb", "c", "dddddddd", "e"]
    pair = Work((Record("aaa", "bbb"), Record("a", choices=("bb", "cc")), Record("a"), Record("b")))
    assert [len(part.records) for part in pair.parts(3, 6)] == [1, 2, 1]


@running
async def test_between_the_parts_of_a_large_request_others_have_their_turn() -> None:
    model = Model(max_queue=MAX_TEXTS)
    large = asyncio.create_task(model.ask(work(*"abcdefghijkl")))
    await settle()
    small = asyncio.create_task(model.ask(work("x")))  # not refused, though many texts are to come
    await settle()
    model.release.set()
    assert (await small).answers == ["X"]
    assert (await large).answers == [*"ABCDEFGHIJKL"]
    assert model.batches[0] == [*"abcd"]
    assert "x" in model.batches[1]
    assert model.gate.is_idle


@running
async def test_the_next_batch_begins_before_the_last_is_answered() -> None:
    model = Model()
    first = asyncio.create_task(model.ask(work("a")))
    await settle()
    second = asyncio.create_task(model.ask(work("b")))
    await settle()
    seen: list[int] = []
    first.add_done_callback(lambda _: seen.append(len(model.batches)))
    model.release.set()
    await asyncio.gather(first, second)
    await settle()
    assert seen == [2]


@running
async def test_who_goes_away_while_waiting_isnt_computed() -> None:
    model = Model()
    first = asyncio.create_task(model.ask(work("a")))
    await settle()
    gone = asyncio.create_task(model.ask(work("gone")))
    stays = asyncio.create_task(model.ask(work("stays")))
    await settle()
    gone.cancel()
    await settle()
    assert model.gate.waiting == 1
    model.release.set()
    await first
    await stays
    assert model.batches == [["a"], ["stays"]]


@pytest.mark.parametrize("steps", range(12))
def test_who_goes_away_at_any_moment_leaves_the_gate_as_it_was(steps: int) -> None:
    @running
    async def at_that_moment() -> None:
        model = Model()
        first = asyncio.create_task(model.ask(work("a")))
        await settle()
        gone = [asyncio.create_task(model.ask(work(text))) for text in "bcde"]
        await settle()
        model.release.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await first
        assert (await model.ask(work("after"))).answers == ["AFTER"]
        await settle()
        assert model.gate.is_idle
        assert model.gate.waiting == 0

    at_that_moment()


@running
async def test_who_is_alone_and_goes_away_leaves_the_model_to_end_its_batch() -> None:
    model = Model()
    gone = asyncio.create_task(model.ask(work("a")))
    await settle()
    gone.cancel()
    waits = asyncio.create_task(model.ask(work("b")))
    await settle()
    assert model.batches == [["a"]]  # the thread still has it
    model.release.set()
    assert (await waits).answers == ["B"]
    assert model.gate.is_idle


@running
async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    model = Model(max_queue=2)
    first = asyncio.create_task(model.ask(work("a")))
    await settle()
    waiting = [asyncio.create_task(model.ask(work(text))) for text in "bc"]
    await settle()
    with pytest.raises(Refused) as refused:
        await model.ask(work("d"))
    assert refused.value.status == 503
    assert refused.value.headers["Retry-After"] == "1"
    model.release.set()
    await asyncio.gather(first, *waiting)
    assert (await model.ask(work("d"))).answers == ["D"]


@running
async def test_an_error_of_one_request_isnt_the_others() -> None:
    model = Model()
    first = asyncio.create_task(model.ask(work("a")))
    await settle()
    bad, good = asyncio.create_task(model.ask(work("bad"))), asyncio.create_task(model.ask(work("good")))
    await settle()
    model.release.set()
    await first
    with pytest.raises(InputError, match="a bad text"):
        await bad
    assert (await good).answers == ["GOOD"]
    assert model.batches == [["a"], ["bad", "good"]]
