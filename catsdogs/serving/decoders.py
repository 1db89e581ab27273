"""Decodes photos in processes that can be killed, and shares these among requests.

A thread that decodes cannot be stopped, and `catsdogs.data.structure` refuses only what is known to
keep a decoder busy, not what is not known yet. So each photo has an allowance of processor time and
memory, by its pixels. Whatever exceeds it is refused, and its process is replaced.
"""

import asyncio
import atexit
import contextlib
import multiprocessing
import os
import signal
import struct
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from PIL import AvifImagePlugin

from catsdogs.data.decode import decode
from catsdogs.data.structure import PhotoError, PhotoTooLarge

try:
    import resource
except ImportError:  # Windows, where only `MAX_SECONDS` is limited
    resource = None  # type: ignore[assignment]

#: A photo's allowance of processor time, in seconds, and more per pixel: twice what the slowest
#: format takes.
SECONDS, SECONDS_PER_PIXEL = 1.5, 5e-8
#: Seconds that a photo may take in all, where the processor is busy with something else.
MAX_SECONDS = 15.0
#: Bytes of memory that decoding takes per pixel, at most, and what a photo is allowed besides.
BYTES_PER_PIXEL, BYTES_PER_WEBP_PIXEL, BYTES = 10.5, 17, 60_000_000
#: Bytes that photos being decoded take together, at most. Photos of up to SMALL bytes do not count.
MAX_MEMORY, SMALL = 660_000_000, 10_000_000
#: Processes are one more than there are cores, and at most one more than this: so many decode more
#: photos than a service can receive.
MAX_CORES = 4

# Not forkserver, which would need a place for temporary files.
_context = multiprocessing.get_context("spawn")


class Decoders:
    """Processes that decode photos; see `start`.

    One request never has them all, and requests take turns. So whatever else was sent, a photo
    waits at most for the one that is being decoded in its place.
    """

    def __init__(self):
        self.share = min(os.cpu_count() or 1, MAX_CORES)
        self.workers = [_Worker() for _ in range(self.share + 1)]
        self.idle = list(self.workers)
        self.threads = ThreadPoolExecutor(len(self.workers), "decode")  # each waits for a worker
        self.waiting: list[_Request] = []  # next is the first whose photo there is room for
        self.memory = 0.0
        self.tasks: set[asyncio.Task] = set()
        atexit.register(self.close)

    def start(self) -> None:
        """Start the processes, in the background; otherwise each is started when it is needed."""
        for worker in self.workers:
            worker.start()

    def submit(
        self, photos: Sequence[tuple[bytes, int]], size: int
    ) -> list[asyncio.Future[np.ndarray]]:
        """Decode the photos of one request to images of `size` pixels per side.

        Each photo is given as its content and its number of pixels. Returns a future for each, of a
        uint8 array (size, size, 3). The future of a photo that cannot be used raises `PhotoError`.
        """
        loop = asyncio.get_running_loop()
        request, futures = _Request(deque(), 0), []
        for content, pixels in photos:
            photo = _Photo(content, pixels, size, loop.create_future())
            futures.append(photo.future)
            if photo.memory <= MAX_MEMORY:
                request.photos.append(photo)
            else:
                photo.future.set_exception(
                    PhotoTooLarge(
                        f"decoding it takes {photo.memory / 1e6:.0f} MB of memory, more than "
                        f"{MAX_MEMORY // 10**6}: expected fewer pixels, or a JPEG"
                    )
                )
        self._to_the_back(request)
        self._start()
        return futures

    def close(self) -> None:
        """Kill the processes, whatever they are doing; photos that wait are not decoded."""
        self.waiting.clear()
        for worker in self.workers:
            worker.kill()
        self.threads.shutdown(wait=False)

    def _start(self):
        """Start decoding the photos that there is room for."""
        while self.idle and (request := self._next()):
            photo = request.photos.popleft()
            self._to_the_back(request)
            if not photo.future.done():  # by being cancelled
                request.running += 1
                self.memory += photo.memory
                task = asyncio.create_task(self._decode(request, photo, self.idle.pop()))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    def _next(self):
        """The request whose photo is decoded next, None if there is no room for any."""
        full = False
        for request in self.waiting:
            memory = request.photos[0].memory
            room = not memory or (not full and self.memory + memory <= MAX_MEMORY)
            if room and request.running < self.share:
                return request
            if not room and not request.running:
                full = True  # were this room given to others, it might wait for it forever
        return None

    def _to_the_back(self, request):
        if request in self.waiting:
            self.waiting.remove(request)
        if request.photos:
            self.waiting.append(request)

    async def _decode(self, request, photo, worker):
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self.threads, worker.decode, photo)
        except Exception as error:
            if not photo.future.done():
                photo.future.set_exception(error)
        else:
            if not photo.future.done():
                photo.future.set_result(image)
        finally:
            self.idle.append(worker)
            request.running -= 1
            self.memory -= photo.memory
            self._to_the_back(request)
            self._start()


@dataclass(eq=False)
class _Photo:
    content: bytes
    pixels: int
    size: int
    future: asyncio.Future

    @property
    def memory(self) -> float:
        """The bytes that decoding it takes, as they count towards `MAX_MEMORY`."""
        per_pixel = BYTES_PER_WEBP_PIXEL if self.content[8:12] == b"WEBP" else BYTES_PER_PIXEL
        memory = self.pixels * per_pixel
        return memory if memory > SMALL else 0

    @property
    def seconds(self) -> float:
        """The processor time that it is allowed."""
        return SECONDS + SECONDS_PER_PIXEL * self.pixels


@dataclass(eq=False)
class _Request:
    photos: deque[_Photo]
    running: int


class _Worker:
    """A process that decodes one photo at a time, seen from the service."""

    def __init__(self):
        self.process, self.connection = None, None

    def decode(self, photo: _Photo) -> np.ndarray:
        """The photo as `catsdogs.data.decode.decode` has it; raises `PhotoError` as it does."""
        if self.process is None or not self.process.is_alive():
            self.start()
        try:
            self.connection.send_bytes(_ORDER.pack(photo.size, photo.seconds, photo.memory + BYTES))
            self.connection.send_bytes(photo.content)
            if not self.connection.poll(MAX_SECONDS):
                raise EOFError
            answer = self.connection.recv_bytes()
        except (EOFError, OSError):
            self.kill()
            self.process = None
            raise PhotoError(
                "not an ordinary photo: decoding it took more than "
                f"{photo.seconds:.1f} seconds of processor time, or made the decoder crash"
            ) from None
        kind, content = answer[:1], answer[1:]
        if kind == _DECODED:
            return np.frombuffer(content, np.uint8).reshape(photo.size, photo.size, 3)
        raise (PhotoTooLarge if kind == _TOO_LARGE else PhotoError)(content.decode())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def start(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection, end = _context.Pipe()
        self.process = _context.Process(target=_work, args=(end,), daemon=True)
        self.process.start()
        end.close()  # so that either side learns of the other's end


# --- in the process --------------------------------------------------------------------------

#: What comes before a photo: the size of the image, and the allowance of seconds and of bytes.
_ORDER = struct.Struct("<idd")
_DECODED, _REFUSED, _TOO_LARGE = b"\0", b"\1", b"\2"


def _work(connection: Connection) -> None:
    """Decode photos until the service closes its end of `connection`, or exists no more."""
    # These are sent to all processes of the service, which answers what was sent before it ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _use_one_thread()
    used = _memory_used()
    with contextlib.suppress(EOFError, OSError):
        while True:
            size, seconds, memory = _ORDER.unpack(connection.recv_bytes())
            photo = connection.recv_bytes()
            with _allowance(seconds, used, memory):
                answer = _answer(photo, size)
            connection.send_bytes(answer)


def _answer(photo, size):
    try:
        return _DECODED + decode(photo, size).tobytes()
    except PhotoTooLarge as error:
        return _TOO_LARGE + str(error).encode()
    except PhotoError as error:
        return _REFUSED + str(error).encode(errors="backslashreplace")
    except MemoryError:
        return _REFUSED + b"not an ordinary photo: decoding it takes more memory than its pixels"


def _use_one_thread():
    """Some decoders start a thread per core: the cores are shared by processes already."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if heif := sys.modules.get("pillow_heif"):
        heif.options.DECODE_THREADS = 1


def _memory_used():
    """Bytes of memory that the process may write to; None where that is not known."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


@contextlib.contextmanager
def _allowance(seconds, used, memory):
    """Have the system kill the process if the block takes too long, and refuse it more memory."""
    if resource is None:
        yield
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if used is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(used + memory), most))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
