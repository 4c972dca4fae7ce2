"""Requests that wait while the model computes, so that they make one batch when it is free.

Ray Serve's `serve.batch` makes a batch of what stands in its queue when the first request comes, and with no time to
wait that is often the first alone: while a batch runs, each newcomer would be made one of its own. So requests wait at
a gate before it, which opens when the model is free, for as many texts as a batch takes:

    request -> [gate: waiting] -> serve.batch -> [the model's thread] -> answer
                    ^                                  |
                    +----------- opens ----------------+

The next batch begins before the answers to the last are written: the model needn't wait for that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from squeezebert_fast.serving.refusals import Refused
from squeezebert_fast.serving.work import Done, Outcome, Work

RETRY_AFTER_SECONDS = 1
CHARACTERS_OF_A_PART = 400_000
"""Of a request, which are tokenized before others have their turn: some tenths of a second."""


@dataclass(eq=False)
class Ticket:
    """Work on its way. is_through: whether it is past the gate and its batch hasn't begun."""

    work: Work
    is_through: bool = False

    @property
    def texts(self) -> int:
        return len(self.work.records)


class Gate:
    """What tickets wait at. All of it runs in one event loop.

    max_texts: of a batch. More than that are never through and not in a batch yet, unless one ticket has more.
    tell: told how many texts wait, whenever it changes.
    """

    def __init__(self, max_texts: int, tell: Callable[[int], None] = lambda waiting: None) -> None:
        self.max_texts, self.tell = max_texts, tell
        self.waiting = 0
        """Texts before the gate."""
        self._queue: deque[tuple[Ticket, asyncio.Future[None]]] = deque()
        self._through = 0  # texts past the gate whose batch hasn't begun
        self._batches = 0  # that have begun and not ended
        self._next_begins: asyncio.Future[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the model is free and nobody wants it."""
        return not (self._batches or self._queue or self._through)

    async def enter(self, ticket: Ticket) -> None:
        """Wait until the gate is open for it."""
        if not self._batches and not self._queue and self._has_room(ticket):
            self._let_in(ticket)
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((ticket, turn))
        self._wait(ticket.texts)
        try:
            await turn
        except asyncio.CancelledError:
            self.leave(ticket)  # it may have been let in, and its client gone before it moved
            raise
        finally:
            self._wait(-ticket.texts)

    def leave(self, ticket: Ticket) -> None:
        """A ticket isn't wanted any more. If its batch hasn't begun, others may take its place."""
        self._pass(ticket)
        if not self._batches:
            self._open()

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """Their batch begins: the gate closes."""
        self._batches += 1
        for ticket in tickets:
            self._pass(ticket)
        self._say_begun()

    def end(self) -> asyncio.Future[None] | None:
        """A batch ends: if the model is free, the gate opens. Gives what is done when the next batch begins, if any."""
        self._batches -= 1
        if self._batches:
            return None
        self._open()
        if self._through and self._next_begins is None:
            self._next_begins = asyncio.get_running_loop().create_future()
        return self._next_begins

    def _wait(self, texts: int) -> None:
        self.waiting += texts
        self.tell(self.waiting)

    def _let_in(self, ticket: Ticket) -> None:
        ticket.is_through = True
        self._through += ticket.texts

    def _pass(self, ticket: Ticket) -> None:
        if ticket.is_through:
            ticket.is_through = False
            self._through -= ticket.texts
        if not self._through:
            self._say_begun()

    def _say_begun(self) -> None:
        if self._next_begins is not None and not self._next_begins.done():
            self._next_begins.set_result(None)
        self._next_begins = None

    def _has_room(self, ticket: Ticket) -> bool:
        return not self._through or self._through + ticket.texts <= self.max_texts

    def _open(self) -> None:
        while self._queue and self._has_room(self._queue[0][0]):
            ticket, turn = self._queue.popleft()
            if not turn.done():  # else its client is gone
                turn.set_result(None)
                self._let_in(ticket)


Compute = Callable[[list[Ticket]], Awaitable[list[Outcome]]]


class Batcher:
    """The texts of a request, through the gate into batches.

    compute: gives the outcomes of some tickets, between the gate's `begin` and `end`. batched: what `serve.batch` makes
    of it. max_queue: texts that may wait. waits: whether a batch waits for more requests than are there.
    """

    def __init__(
        self,
        gate: Gate,
        compute: Compute,
        batched: Callable[[Ticket], Awaitable[Outcome]],
        *,
        max_queue: int,
        waits: bool = False,
    ) -> None:
        self.gate, self.compute, self.batched = gate, compute, batched
        self.max_queue, self.waits = max_queue, waits

    async def __call__(self, work: Work) -> Done:
        """The answers to a request's texts. Raises Refused, 503, where too many wait, and what the model raises."""
        if self.gate.waiting >= self.max_queue:
            raise Refused(
                503,
                f"{self.gate.waiting:,} texts are waiting already, as many as may; try again",
                code="queue_full",
                retry_after=RETRY_AFTER_SECONDS,
            )
        parts = work.parts(self.gate.max_texts, CHARACTERS_OF_A_PART)
        if len(parts) == 1:
            return await self._ask(Ticket(work))
        # one after the other, so that between the parts of a large request others have their turn
        done = [await self._ask(Ticket(part)) for part in parts]
        return Done([answer for each in done for answer in each.answers], sum(each.tokens for each in done))

    async def _ask(self, ticket: Ticket) -> Done:
        is_alone = self.gate.is_idle and not self.waits
        await self.gate.enter(ticket)
        if is_alone:
            # a batch of itself, without the fifth of a millisecond that `serve.batch` takes to make one
            (outcome,) = await asyncio.shield(asyncio.ensure_future(self.compute([ticket])))
        else:
            outcome = await self._in_batch(ticket)
        if isinstance(outcome, Done):
            return outcome
        raise outcome

    async def _in_batch(self, ticket: Ticket) -> Outcome:
        try:
            return await self.batched(ticket)
        except asyncio.CancelledError:
            self.gate.leave(ticket)
            raise
