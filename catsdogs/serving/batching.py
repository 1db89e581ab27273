"""Dynamic batching: photos of concurrent requests go through the network in one batch."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from catsdogs.data import structure
from catsdogs.data.structure import PhotoError
from catsdogs.serving.decoders import Decoders
from catsdogs.serving.predictor import Predictor

#: Photos in flight at a time, over all requests, at most: received and not yet answered.
MAX_IN_FLIGHT = 512
#: Pixels per request, at most: 64 photos of 12.5 megapixels.
MAX_PIXELS = 800_000_000
#: Images per batch, at most.
MAX_BATCH = 32


class TooManyInFlightError(Exception):
    """The photos would exceed `MAX_IN_FLIGHT`."""


class TooManyPixelsError(Exception):
    """The photos of a request exceed `MAX_PIXELS`."""

    def __init__(self, pixels: int):
        super().__init__(
            f"{pixels // 10**6} megapixels in one request: expected at most {MAX_PIXELS // 10**6}"
        )


class Output(NamedTuple):
    """The network's output for one photo.

    ``probability`` of "dog"; ``neither``: the score for "neither", or None; ``map``: Grad-CAM,
    uint8, (height, width), or None.
    """

    probability: float
    neither: float | None
    map: np.ndarray | None


class Batcher:
    """Runs `predictors`, by name, on photos of concurrent requests, with dynamic batching.

    While a network runs one batch, photos that arrive are queued; they are the next batch. Several
    networks take turns, since each uses all cores. `Decoders` decodes the photos. `observe_batch`
    is called with the size of each batch.
    """

    def __init__(self, predictors: dict[str, Predictor], observe_batch: Callable[[int], None]):
        self.predictors, self.observe_batch = predictors, observe_batch
        self.queues: dict[str, deque[tuple]] = {name: deque() for name in predictors}
        self.in_flight, self.runner = 0, None
        self.decoders = Decoders()
        self.network = ThreadPoolExecutor(1, "network")

    async def predict(
        self, photos: list[bytes], model: str, with_map: bool
    ) -> list[Output | PhotoError]:
        """The output of the network `model` for each of `photos`, or the error of one that cannot
        be used.

        Raises `TooManyInFlightError` where they would exceed `MAX_IN_FLIGHT`, and
        `TooManyPixelsError` where they exceed `MAX_PIXELS`.
        """
        if self.in_flight + len(photos) > MAX_IN_FLIGHT:
            raise TooManyInFlightError
        self.in_flight += len(photos)
        try:
            refused, accepted = {}, []
            for index, photo in enumerate(photos):
                try:
                    accepted.append((photo, structure.check(photo)))
                except PhotoError as error:
                    refused[index] = error
                await asyncio.sleep(0)  # walking a file may take 20 ms: others have their turn
            pixels = sum(count for _, count in accepted)
            if pixels > MAX_PIXELS:
                raise TooManyPixelsError(pixels)
            size = self.predictors[model].size
            outputs = iter(
                await asyncio.gather(
                    *(
                        self._predict(decoded, model, with_map)
                        for decoded in self.decoders.submit(accepted, size)
                    )
                )
            )
            return [refused.get(index) or next(outputs) for index in range(len(photos))]
        finally:
            self.in_flight -= len(photos)

    async def _predict(self, decoded, model, with_map):
        try:
            image = await decoded
        except PhotoError as error:
            return error
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.queues[model].append((image, with_map, future))
        if self.runner is None:
            self.runner = loop.create_task(self._run())
        return await future

    async def _run(self):
        loop = asyncio.get_running_loop()
        try:
            while any(self.queues.values()):
                for model, queue in self.queues.items():
                    if not queue:
                        continue
                    batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
                    self.observe_batch(len(batch))
                    try:
                        outputs = await loop.run_in_executor(
                            self.network, _run_batch, self.predictors[model], batch
                        )
                    except Exception as error:
                        # Every request must get a response, if only an error.
                        for _, _, future in batch:
                            if not future.done():
                                future.set_exception(error)
                        continue
                    for (_, _, future), output in zip(batch, outputs):
                        if not future.done():  # the client may have disconnected
                            future.set_result(output)
        finally:
            self.runner = None


def _run_batch(predictor, batch):
    images = np.stack([image for image, _, _ in batch])
    explain = predictor.can_explain and any(with_map for _, with_map, _ in batch)
    found = predictor.run(images, maps=explain)
    if not explain:
        return [Output(*found.of(index), None) for index in range(len(batch))]
    maps = (np.clip(found.maps, 0, 1) * 255).round().astype(np.uint8)
    return [
        Output(*found.of(index), maps[index] if with_map else None)
        for index, (_, with_map, _) in enumerate(batch)
    ]
