"""All that a program's steps read from disk: weights that stream, routed experts, and rows of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.backends.base import NO_DISK, FromDisk
from memfirst.backends.cpu.expert_cache import ExpertCache
from memfirst.backends.cpu.pack import Pack, pack_rows
from memfirst.backends.cpu.readers import Readers
from memfirst.backends.cpu.stream import Stream
from memfirst.codecs.base import ROWS
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Step, Weight
from memfirst.graph.traffic import DiskTraffic, RowTraffic, WeightTraffic
from memfirst.hardware.disk import Reader, read_rate
from memfirst.kernels.cpu import arena
from memfirst.lower.program import Program, Stretch

Tokens = Sequence[int] | NDArray[np.int32]


class Rows:
    """Rows of tables on disk, as steps look them up: those of a step's tokens one behind the other, packed."""

    def __init__(self, program: Program, checkpoint: Checkpoint, pack: Pack) -> None:
        self._pack = pack
        self._weights = {name: program.weights[name] for name in program.streaming.tables}
        self.places = {name: arena.allocate(n, huge=False) for name, n in program.streaming.tables.items()}
        """Where they are put."""
        self._extents = {name: checkpoint.extents(name) for name in self._weights}
        self._codecs = {name: codecs.get(checkpoint.tensors[name].codec) for name in self._weights}
        self._reader = Reader(max((w.row_bytes for w in self._weights.values()), default=0))

    def bring(self, tokens: NDArray[np.int32]) -> Mapping[str, int]:
        """The rows of `tokens`; bytes that were read, by table."""
        return {name: self._bring(name, weight, tokens) for name, weight in self._weights.items()}

    def _bring(self, name: str, weight: Weight, tokens: NDArray[np.int32]) -> int:
        codec, size = self._codecs[name], weight.row_bytes
        rows = np.empty((len(tokens), size // codec.block_bytes, codec.block_bytes), np.uint8)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.reshape(-1)[:] = self._reader.read(self._extents[name], token * size, size)
        packed = self.places[name].reshape(-1, rows.shape[1], ROWS * codec.block_bytes)
        pack_rows(codec, rows, packed, self._pack)
        return len(tokens) * size

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


class Disk:
    """What steps wait for. Nothing, where all weights are in memory."""

    def __init__(self, program: Program, checkpoint: Checkpoint, routing: NDArray[np.int32], pack: Pack) -> None:
        streaming = program.streaming
        self._rows = Rows(program, checkpoint, pack)
        self._stream, self._experts = Stream(program, checkpoint), ExpertCache(program, checkpoint, routing)
        self._readers = Readers(streaming.request, [self._experts, self._stream], pack)
        self.reads = bool(streaming.weights or streaming.routed)
        """Whether steps wait for weights."""
        names = [w.name for w in streaming.weights] + [name for r in streaming.routed for name in r.tensors]
        self._extents = [extent for name in names for extent in checkpoint.extents(name)]
        self.places: dict[tuple[str, str], NDArray[np.uint8] | NDArray[np.int64]] = {}
        """Arrays by space and name of the operands that name them."""
        self.places |= {("rows", name): place for name, place in self._rows.places.items()}
        self.places |= {("weight", name): place for name, place in self._stream.places.items()}
        self.places |= {("weight", name): place for name, place in self._experts.places.items()}
        self.places |= {("table", f"experts:{name}"): table for name, table in self._experts.tables.items()}
        reads = [(op, move.read) for op, move in program.moves if isinstance(move, DiskTraffic)]
        self._looked_up = {r.weight.name: op for op, r in reads if isinstance(r, RowTraffic)}
        self._streamed = {r.weight.alias or r.weight.name: op for op, r in reads if isinstance(r, WeightTraffic)}

    def start(self) -> None:
        """Begin to read ahead."""
        if self.reads:
            self._readers.start()

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for weights."""
        return self._readers.waited

    def bandwidth(self, seconds: float) -> float | None:
        """Bytes per second that as many threads read of the same files, without packing; None where nothing is read."""
        return read_rate(self._extents, seconds) if self.reads else None

    @contextmanager
    def step(self, step: Step, tokens: Tokens) -> Iterator[Coming]:
        """What a step of `tokens` waits for. Where it is given up, the next one begins anew."""
        rows = self._rows.bring(np.asarray(tokens, np.int32))
        coming = Coming(self._readers, self._stream, self._experts)
        coming.bytes.update({self._looked_up[name]: n for name, n in rows.items()})
        if not self.reads:
            yield coming
            coming.read = FromDisk(coming.bytes)
            return
        try:
            coming.begin(step.logits > 0)
            yield coming
            coming.end(self._streamed)
        except BaseException:
            self._readers.restart()
            raise

    def close(self) -> None:
        """End the readers and close the files."""
        self._readers.close()
        self._rows.close()


class Coming:
    """What one step waits for."""

    def __init__(self, readers: Readers, stream: Stream, experts: ExpertCache) -> None:
        self._readers, self._stream, self._experts = readers, stream, experts
        self.bytes: Counter[str] = Counter()
        """Read for it so far, by operation."""
        self.read = NO_DISK
        """What was read for it, once it is over."""

    def begin(self, logits: bool) -> None:
        """The step begins; `logits`: it reads the head."""

        def begin() -> None:
            self._stream.begin(logits)
            self._experts.begin()

        self._readers.tell(begin)

    def wait(self, stretch: Stretch) -> None:
        """Until the stretch's weights are there."""
        if stretch.routed:
            self._readers.tell(lambda: self._experts.need(stretch.routed))
        if stretch.routed or stretch.needs:
            self._readers.wait(lambda: self._stream.has(stretch.needs) and self._experts.has(stretch.routed))

    def free(self, stretch: Stretch) -> None:
        """The stretch is over."""
        if stretch.needs:
            self._readers.tell(lambda: self._stream.free(stretch.frees))

    def end(self, streamed: Mapping[str, str]) -> None:
        """The step is over; `streamed`: operations by the weight that they read."""
        for name, n in self._stream.end().items():
            self.bytes[streamed[name]] += n
        experts, resident, missing = self._experts.end()
        self.bytes.update(experts)
        self.read = FromDisk(self.bytes, resident, missing)
