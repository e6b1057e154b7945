"""Requests that come at the same time are answered together, by one worker thread.

While the worker answers some, the others gather; so the batches are as large as the load asks for,
and a lone request waits for nobody.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar


class Work(Protocol):
    """What a request asks for."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to encode."""


class Overloaded(Exception):  # noqa: N818, it is no error of ours
    """More requests wait than are allowed to."""


W = TypeVar("W", bound=Work)
A = TypeVar("A")


class Batcher(Generic[W, A]):
    """Gathers work for one thread.

    Args:
        answer: called in the thread with some work; returns an answer to each, in order.
        batch_texts: no more work is gathered once it has this many texts.
        waiting_texts: with more than this many the next request is refused.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[W]], Sequence[A]],
        batch_texts: int,
        waiting_texts: int,
    ):
        self._answer = answer
        self.batch_texts, self.waiting_texts = batch_texts, waiting_texts
        self._waiting: deque[tuple[W, asyncio.Future[A]]] = deque()
        self._arrived = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many texts wait."""
        return sum(len(work.texts) for work, _ in self._waiting)

    async def submit(self, work: W) -> A:
        """The answer to some work.

        Raises:
            Overloaded: too many texts wait already.
            Exception: what `answer` raised for this work.
        """
        if self.waiting + len(work.texts) > self.waiting_texts:
            raise Overloaded
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        self._arrived.set()
        return await future

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work is answered as long as this is open."""
        with ThreadPoolExecutor(1, "jaxir-serving") as worker:
            task = asyncio.create_task(self._run(worker))
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _run(self, worker: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._gather()
            if not batch:
                self._arrived.clear()
                continue
            answers = await loop.run_in_executor(worker, self._answer_each, [w for w, _ in batch])
            for (_, future), answer in zip(batch, answers):
                if future.done():  # whoever asked has gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _gather(self) -> list[tuple[W, asyncio.Future[A]]]:
        batch: list[tuple[W, asyncio.Future[A]]] = []
        texts = 0
        while self._waiting:
            work, future = self._waiting[0]
            if batch and texts + len(work.texts) > self.batch_texts:
                break
            self._waiting.popleft()
            if not future.done():
                batch.append((work, future))
                texts += len(work.texts)
        return batch

    def _answer_each(self, batch: Sequence[W]) -> list[A | Exception]:
        """Answers, or what went wrong with each; the mistake of one is not that of the others."""
        try:
            return list(self._answer(batch))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [answer for work in batch for answer in self._answer_each([work])]
