"""The compiled encoder's memory: tables that all threads share, a cache for each thread, and calls with addresses in place of arrays."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Callable, Sequence

import numpy as np

from groundup.tokenizer import engine
from groundup.tokenizer.crossings import crossing_table
from groundup.tokenizer.engine import N_FIELDS, NARROW_BYTES, WIDE_BYTES
from groundup.tokenizer.merge_loops import BYTES_EACH, NONE, SHORT
from groundup.tokenizer.scan import KINDS, MARGIN, address_of_classes, new_scratch

NARROW_SETS, WIDE_SETS = 1 << 17, 1 << 14
"""Sizes of a thread's cache: 8 MiB for short and as much for long pre-tokens."""

SLACK = 32
"""Ids behind the last that the engine may write over."""

_WORK_LIMIT = 1 << 12
_LARGE_PAGE = 1 << 21
_BUFFER_IDS = 1 << 20  # of which only what is used is ever memory
_BYTES_HEADER = bytes.__basicsize__ - 1  # in CPython, which numba runs on, bytes begin behind what its objects begin with
_GIVEN = 1 << 12  # pre-tokens in a call
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(("PyBytes_FromStringAndSize", ctypes.pythonapi))
_MIX = np.uint64(0x9E3779B97F4A7C15)


def new_pair_table(left: np.ndarray, right: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The hash table that ``merge_loops`` looks pairs up in, uint64, shape [2 n], from pairs in order of rank and the ids they make."""
    keys = (left.astype(np.uint64) << np.uint64(32)) | right.astype(np.uint64)
    keys, first = np.unique(keys, return_index=True)  # of a pair that is there twice, the first
    values = (first.astype(np.uint64) << np.uint64(32)) | new.astype(np.uint64)[first]
    size = 1 << max(4, int(2 * keys.size).bit_length())
    table = _large_pages(16 * size).view(np.uint64).reshape(size, 2)
    table[:] = NONE
    mixed = keys * _MIX
    slots = ((mixed ^ (mixed >> np.uint64(32))) & np.uint64(size - 1)).astype(np.int64)
    waiting = np.arange(keys.size)
    while waiting.size:
        waiting = waiting[np.argsort(slots[waiting], kind="stable")]
        here = slots[waiting]
        placed = (table[here, 0] == NONE) & np.append(True, here[1:] != here[:-1])
        table[here[placed], 0] = keys[waiting[placed]]
        table[here[placed], 1] = values[waiting[placed]]
        waiting = waiting[~placed]
        slots[waiting] = (slots[waiting] + 1) & (size - 1)
    return table.ravel()


class Encoder:
    """Encodes ordinary text, on any number of threads at once.

    Args:
        tokens: the bytes of each ordinary id; none for an id that stands for nothing.
        pairs: ids left, right and new of each merge, int64, shape [n, 3], in order of rank.
        byte_ids: the id of each byte by itself, int32, shape [256].
        split: a key of ``scan.KINDS``, or what says where the pre-tokens of a text end, int64, shape [n].
        whole: whether a pre-token that is a token becomes that token even where merges make something else.
    """

    def __init__(
        self, tokens: Sequence[bytes], pairs: np.ndarray, byte_ids: np.ndarray, split: str | Callable[[bytes], np.ndarray], whole: bool
    ) -> None:
        self.byte_ids = byte_ids
        self.kind = KINDS[split] if isinstance(split, str) else engine.GIVEN_KIND
        self.classes = address_of_classes(split) if isinstance(split, str) else 0
        self._split = None if isinstance(split, str) else split
        self.blob = np.frombuffer(b"".join(tokens) + bytes(64), np.uint8)
        self.offsets = np.concatenate(([0], np.cumsum([len(token) for token in tokens]))).astype(np.int64)
        self._set_pairs(pairs)
        meets = self._meets(pairs)
        if not meets.all():
            self._set_pairs(pairs[meets])
        self.crossings = crossing_table(self.blob, self.offsets)
        self.whole: np.ndarray | None = None
        self._threads = threading.local()
        thread = _Thread(self)
        unmade = _seed(thread, tokens)
        if whole and unmade:
            self.whole = _table_of(unmade, tokens)
            thread = _Thread(self)
            _seed(thread, tokens)
        self._threads.mine = thread
        self.seeds = thread.narrow.copy(), thread.wide.copy()

    def _pairs_of_bytes(self, pairs: np.ndarray) -> np.ndarray:
        """What each pair of bytes makes, uint64, shape [65536]: rank and id, as in the pair table."""
        byte_of = {int(token): byte for byte, token in enumerate(self.byte_ids)}
        table = np.full(1 << 16, NONE, np.uint64)
        single = np.isin(pairs[:, 0], self.byte_ids) & np.isin(pairs[:, 1], self.byte_ids)
        for rank in np.flatnonzero(single)[::-1].tolist():
            left, right, new = pairs[rank].tolist()
            table[byte_of[left] << 8 | byte_of[right]] = rank << 32 | new
        return table

    def _set_pairs(self, pairs: np.ndarray) -> None:
        self.pairs = new_pair_table(pairs[:, 0], pairs[:, 1], pairs[:, 2])
        self.byte_pairs = self._pairs_of_bytes(pairs)

    def _meets(self, pairs: np.ndarray) -> np.ndarray:
        """Which pairs ever stand side by side, bool, shape [n]: one in two or fewer where a vocabulary says nothing of merges.

        What merges within some bytes, as long as nothing merges across their ends, is what merges within them when they are alone, in
        the same order. So the last two ids of a token alone are the only two that can meet where they make that token.
        """
        n_tokens = self.offsets.size - 1
        work, last = np.empty(BYTES_EACH * SHORT + 64 * SHORT, np.uint8), np.empty((n_tokens, 2), np.int32)
        engine.last_pairs(
            *(array.ctypes.data for array in (self.blob, self.offsets)),
            n_tokens,
            *(array.ctypes.data for array in (self.byte_ids, self.byte_pairs, self.pairs)),
            self.pairs.size // 2 - 1,
            work.ctypes.data,
            last.ctypes.data,
        )
        is_asked = np.append(np.diff(self.offsets) <= SHORT, False)
        new = np.minimum(pairs[:, 2], n_tokens)  # ids beyond are beginnings of characters
        return ~is_asked[new] | (np.append(last, [[0, 0]], 0)[new] == pairs[:, :2]).all(1)

    def encode(self, data: bytes | mmap.mmap, start: int, stop: int) -> np.ndarray:
        """The ids of a part of a text, uint32, shape [n]."""
        if self._split is not None:
            return self._thread().encode_given(data[start:stop], self._split(data[start:stop]))
        thread, n = self._thread(), stop - start
        source = _address_of(data) + start
        if n <= _BUFFER_IDS:
            return thread.buffer[: thread.encode(source, n, thread.buffer_address)].copy()
        out = np.empty(n + SLACK, np.uint32)
        out.resize(thread.encode(source, n, out.ctypes.data), refcheck=False)
        return out

    def _thread(self) -> _Thread:
        thread = getattr(self._threads, "mine", None)
        if thread is None:
            thread = self._threads.mine = _Thread(self)
            thread.narrow[:], thread.wide[:] = self.seeds
        return thread


class _Thread:
    """What one thread needs for itself: its cache and working memory, and the state that tells the engine where everything is."""

    def __init__(self, shared: Encoder) -> None:
        self._shared = shared  # whose tables must stay where they are
        self.narrow, self.wide = _large_pages(2 * NARROW_BYTES * NARROW_SETS), _large_pages(2 * WIDE_BYTES * WIDE_SETS)
        self._scratch, self._keys, self._masks = new_scratch(), np.empty(engine.KEYS_BYTES, np.uint8), engine.key_masks()
        self.buffer = np.empty(_BUFFER_IDS + SLACK, np.uint32)
        self.buffer_address = self.buffer.ctypes.data
        self._ends = np.empty(_GIVEN, np.int32)
        self._state = np.zeros(N_FIELDS, np.int64)
        self._address = self._state.ctypes.data
        fields = {
            engine.SCRATCH: self._scratch.ctypes.data,
            engine.CLASSES: shared.classes,
            engine.KIND: shared.kind,
            engine.NARROW: self.narrow.ctypes.data,
            engine.NARROW_SHIFT: 64 - (NARROW_SETS.bit_length() - 1),
            engine.WIDE: self.wide.ctypes.data,
            engine.WIDE_SHIFT: 64 - (WIDE_SETS.bit_length() - 1),
            engine.PAIRS: shared.pairs.ctypes.data,
            engine.PAIR_MASK: shared.pairs.size // 2 - 1,
            engine.BYTE_IDS: shared.byte_ids.ctypes.data,
            engine.BYTE_PAIRS: shared.byte_pairs.ctypes.data,
            engine.WHOLE: 0 if shared.whole is None else shared.whole.ctypes.data,
            engine.WHOLE_MASK: -1 if shared.whole is None else shared.whole.size - 1,
            engine.BLOB: shared.blob.ctypes.data,
            engine.OFFSETS: shared.offsets.ctypes.data,
            engine.CROSSINGS: shared.crossings.ctypes.data,
            engine.CROSSINGS_SHIFT: 64 - (8 * shared.crossings.size - 1).bit_length(),
            engine.GIVEN: self._ends.ctypes.data,
            engine.KEYS: self._keys.ctypes.data,
            engine.MASKS: self._masks.ctypes.data,
        }
        for field, value in fields.items():
            self._state[field] = value
        self._make_room(_WORK_LIMIT)

    def _make_room(self, n: int) -> None:
        self._work = np.empty(BYTES_EACH * n + 64 * SHORT, np.uint8)
        self._segments = np.empty(n + 1, np.int32)
        self._state[[engine.WORK, engine.WORK_LIMIT, engine.SEGMENTS]] = self._work.ctypes.data, n, self._segments.ctypes.data

    def encode(self, source: int, n: int, out: int) -> int:
        """Writes the ids of n bytes; returns how many."""
        k = engine.encode(source, n, self._address, out)
        if k >= 0:
            return k
        total = reached = 0
        while k < 0:
            total += -1 - k
            self._make_room(int(self._state[engine.NEEDED]))
            reached += int(self._state[engine.REACHED])
            k = engine.encode(source + reached, n - reached, self._address, out + 4 * total)
        self._make_room(_WORK_LIMIT)
        return total + k

    def encode_given(self, text: bytes, ends: np.ndarray) -> np.ndarray:
        """The ids of a text whose pre-tokens end where ``ends`` says, int64, shape [n]."""
        array = np.frombuffer(text + bytes(MARGIN), np.uint8)
        longest = int(np.diff(ends, prepend=0).max(initial=0))
        if longest > self._state[engine.WORK_LIMIT]:
            self._make_room(longest)
        out = np.empty(len(text) + SLACK, np.uint32)
        self._state[engine.KIND] = engine.GIVEN_KIND
        total = begin = 0
        for first in range(0, ends.size, _GIVEN):
            some = ends[first : first + _GIVEN]
            self._ends[: some.size] = some - begin
            total += engine.encode(array.ctypes.data + begin, some.size, self._address, out.ctypes.data + 4 * total)
            begin = int(some[-1])
        self._state[engine.KIND] = self._shared.kind
        if longest > _WORK_LIMIT:
            self._make_room(_WORK_LIMIT)
        out.resize(total, refcheck=False)
        return out


def decode(ids: np.ndarray, blob: np.ndarray, offsets: np.ndarray) -> bytes:
    """The bytes of ids that are all in range: ``blob[offsets[id] : offsets[id + 1]]`` of each, joined."""
    ids = np.ascontiguousarray(ids, np.uint32).ravel()
    where = ids.ctypes.data, ids.size, offsets.ctypes.data
    size = engine.decoded_size(*where)
    text = _new_bytes(None, size)  # nobody else knows of it yet, so it may still be written to
    engine.decode(*where, blob.ctypes.data, _address_of(text), size)
    return text


def _address_of(data: bytes | mmap.mmap) -> int:
    """Where a text's bytes lie, which they do while it is referred to."""
    if isinstance(data, bytes):
        return id(data) + _BYTES_HEADER  # numpy would say the same, and take longer than a short text does
    return np.frombuffer(data, np.uint8).ctypes.data


def _large_pages(n: int) -> np.ndarray:
    """Zeros, uint8, shape [n], in large pages of memory where the system has them: tables are read all over the place."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(n, np.uint8)
    memory = mmap.mmap(-1, n + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # what could be shared gets small pages
    with contextlib.suppress(OSError):  # a system built without
        memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    shift = -array.ctypes.data % _LARGE_PAGE
    return array[shift : shift + n]


def _seed(thread: _Thread, tokens: Sequence[bytes]) -> list[int]:
    """Encodes every token as a pre-token, the first last, so that the cache holds them; returns those that become something else."""
    order = [i for i in range(len(tokens) - 1, -1, -1) if tokens[i]]
    unmade = []
    for i in range(0, len(order), _GIVEN):
        some = order[i : i + _GIVEN]
        pretokens = [tokens[token] for token in some]
        if thread.encode_given(b"".join(pretokens), np.cumsum([len(pretoken) for pretoken in pretokens])).size > len(some):
            unmade += [token for token in some if thread.encode_given(tokens[token], np.array([len(tokens[token])])).size > 1]
    return unmade


def _table_of(ids: Sequence[int], tokens: Sequence[bytes]) -> np.ndarray:
    """The hash table in which the engine finds tokens by their bytes, int32, with -1 where there is none."""
    size = 1 << (2 * len(ids)).bit_length()
    table = np.full(size, -1, np.int32)
    for token in ids:
        slot = engine.hash_of(tokens[token]) & (size - 1)
        while table[slot] >= 0:
            slot = (slot + 1) % size
        table[slot] = token
    return table
