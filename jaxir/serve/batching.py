"""Dynamic batching: requests that arrive at the same time are answered by one call.

While the worker thread answers a batch, new requests queue up; so batches grow with the load, and a
single request never waits for others.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar


class HasTexts(Protocol):
    """A request that can be batched; its size is its number of texts."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to encode."""


class QueueFull(Exception):  # noqa: N818, the server works as it should
    """Too many texts are waiting for another request to join them."""


RequestT = TypeVar("RequestT", bound=HasTexts)
AnswerT = TypeVar("AnswerT")


class Batcher(Generic[RequestT, AnswerT]):
    """A queue of requests, and a thread that answers them in batches.

    Args:
        answer: called in the thread with a batch; returns an answer to each request, in order.
        max_batch_texts: a batch ends before the request that would take it beyond this many texts.
        max_queued_texts: a request that would take the queue beyond this many texts is refused.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[RequestT]], Sequence[AnswerT]],
        max_batch_texts: int,
        max_queued_texts: int,
    ):
        self._answer = answer
        self.max_batch_texts, self.max_queued_texts = max_batch_texts, max_queued_texts
        self._queue: deque[tuple[RequestT, asyncio.Future[AnswerT]]] = deque()
        self._arrived = asyncio.Event()

    @property
    def queued_texts(self) -> int:
        """Number of texts in the queue."""
        return sum(len(request.texts) for request, _ in self._queue)

    async def submit(self, request: RequestT) -> AnswerT:
        """Queue a request and return its answer.

        Raises:
            QueueFull: too many texts are queued already.
            Exception: raised by `answer` for this request.
        """
        if self.queued_texts + len(request.texts) > self.max_queued_texts:
            raise QueueFull
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._queue.append((request, future))
        self._arrived.set()
        return await future

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests while the context is open."""
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
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            requests = [request for request, _ in batch]
            answers = await loop.run_in_executor(worker, self._answer_each, requests)
            for (_, future), answer in zip(batch, answers):
                if future.done():  # cancelled: the client has gone, or its time is up
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next_batch(self) -> list[tuple[RequestT, asyncio.Future[AnswerT]]]:
        batch: list[tuple[RequestT, asyncio.Future[AnswerT]]] = []
        texts = 0
        while self._queue:
            request, future = self._queue[0]
            if batch and texts + len(request.texts) > self.max_batch_texts:
                break
            self._queue.popleft()
            if not future.done():
                batch.append((request, future))
                texts += len(request.texts)
        return batch

    def _answer_each(self, batch: Sequence[RequestT]) -> list[AnswerT | Exception]:
        """Answer a batch; if that fails, each request alone, so that only the bad ones fail."""
        try:
            return list(self._answer(batch))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [answer for request in batch for answer in self._answer_each([request])]
