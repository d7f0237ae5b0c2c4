"""A store gives back what was written, and says which file is broken when it cannot."""

import errno
import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data import Document, TokenStore, write_shards
from groundup.errors import GroundupError, UsageError


def documents_of(lengths, vocab_size=300, seed=0):
    draw = np.random.default_rng(seed)
    return [(Document(f"d/{i}.txt", bytes(3 * n)), draw.integers(0, vocab_size, n).astype(np.uint32)) for i, n in enumerate(lengths)]


@pytest.fixture
def folder(tmp_path):
    write_shards(documents_of([5, 1, 40, 100, 7]), tmp_path / "tokens", vocab_size=300, tokenizer_hash="abc", shard_tokens=64)
    return tmp_path / "tokens"


@settings(max_examples=40)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 100), st.sampled_from([2, 65_536, 65_537, 1 << 20]), st.data())
def test_a_store_gives_back_what_was_written(lengths, shard_tokens, vocab_size, data):
    written = documents_of(lengths, vocab_size)
    stream = np.concatenate([tokens for _, tokens in written])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "deep" / "tokens"
        write_shards(iter(written), folder, vocab_size=vocab_size, tokenizer_hash="h", shard_tokens=shard_tokens)
        store = TokenStore.open(folder)
        np.testing.assert_array_equal(store.slice(0, store.n_tokens), stream)
        start = data.draw(st.integers(0, len(stream)))
        stop = data.draw(st.integers(start, len(stream)))
        part = store.slice(start, stop)
        np.testing.assert_array_equal(part, stream[start:stop])
        assert part.dtype == np.int64
        np.testing.assert_array_equal(store.document_starts, np.cumsum([0, *lengths]))
        assert store.document_bytes.tolist() == [3 * n for n in lengths]
        assert store.document_ids == [document.id for document, _ in written]
        assert (store.n_tokens, store.n_bytes, store.n_documents) == (len(stream), 3 * len(stream), len(lengths))
        assert (store.vocab_size, store.tokenizer_hash) == (vocab_size, "h")
        assert {shard.dtype.itemsize for shard in store.shards} == {2 if vocab_size <= 65_536 else 4}
        assert sum(map(len, store.shards)) == len(stream)
        assert os.listdir(folder.parent) == ["tokens"]


def test_positions_outside_the_store_are_refused(folder):
    store = TokenStore.open(folder)
    for start, stop in ((-1, 5), (5, 4), (0, store.n_tokens + 1)):
        with pytest.raises(GroundupError, match="no tokens"):
            store.slice(start, stop)


@pytest.mark.parametrize("file", ["tokens-00000.bin", "tokens-00002.bin", "index.json", "index.npz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "grown", "gone"])
def test_a_file_of_another_size_is_named(folder, file, damage):
    data = (folder / file).read_bytes()
    if damage == "gone":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes({"cut": data[:-1], "empty": b"", "grown": data + b"x"}[damage])
    with pytest.raises(GroundupError, match=file):
        TokenStore.open(folder)


def test_any_changed_byte_of_a_shard_or_the_index_is_found(folder):
    pristine = folder.with_name("pristine")
    shutil.copytree(folder, pristine)
    for file in ("tokens-00001.bin", "index.npz"):
        data = (pristine / file).read_bytes()
        for place in range(0, len(data), 1 if file.endswith("bin") else 37):
            changed = bytearray(data)
            changed[place] ^= 0x10
            (folder / file).write_bytes(changed)
            with pytest.raises(GroundupError, match=file):
                TokenStore.open(folder)
        (folder / file).write_bytes(data)
    TokenStore.open(folder)


@pytest.mark.parametrize(
    "key", ["version", "vocab_size", "tokenizer_hash", "n_tokens", "n_documents", "n_bytes", "shard_tokens", "index_blake2b"]
)
@pytest.mark.parametrize("change", ["other", "missing", "kind"])
def test_an_index_that_disagrees_is_found(folder, key, change):
    index = json.loads((folder / "index.json").read_text())
    if change == "missing":
        del index[key]
    else:
        other = index[key] + 1 if isinstance(index[key], int) else "other"
        index[key] = other if change == "other" else [other]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(GroundupError, match=r"delete its folder"):
        TokenStore.open(folder)


def test_a_shard_of_another_version_says_so(folder):
    shard = folder / "tokens-00000.bin"
    data = bytearray(shard.read_bytes())
    struct.pack_into("<I", data, 8, 2)
    shard.write_bytes(data)
    with pytest.raises(GroundupError, match=r"tokens-00000\.bin is of version 2, and this groundup reads version 1"):
        TokenStore.open(folder)


def test_checksums_are_not_read_when_not_asked_for(folder):
    shard = folder / "tokens-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    TokenStore.open(folder, verify=False)
    with pytest.raises(GroundupError, match="checksum"):
        TokenStore.open(folder)


def test_a_folder_without_tokens_is_asked_for_wrongly(tmp_path):
    with pytest.raises(UsageError, match=r"not a folder of token shards"):
        TokenStore.open(tmp_path)


def test_nothing_half_made_is_left(tmp_path, monkeypatch):
    def failing():
        yield from documents_of([5, 5])
        raise ValueError("while encoding")

    def full_disk(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    cases = [
        (failing(), ValueError, "while encoding"),
        (documents_of([5, 0]), GroundupError, r"d/1\.txt has no tokens"),
        ([(Document("a", b""), np.array([3, 300]))], GroundupError, "a has a token outside the vocabulary of 300"),
        ([(Document("a", b""), np.array([-1]))], GroundupError, "outside the vocabulary"),
        ([], UsageError, "no documents"),
    ]
    for documents, error, message in cases:
        with pytest.raises(error, match=message):
            write_shards(documents, tmp_path / "tokens", vocab_size=300, tokenizer_hash="", shard_tokens=4)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(GroundupError, match=r"tokens cannot be written \(No space left"):
        write_shards(documents_of([5]), tmp_path / "tokens", vocab_size=300, tokenizer_hash="")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_no_hindrance_and_what_is_complete_is_kept(tmp_path):
    (tmp_path / ".tokens.partial").mkdir()
    (tmp_path / ".tokens.partial" / "tokens-00009.bin").write_bytes(b"old")
    write_shards(documents_of([5]), tmp_path / "tokens", vocab_size=300, tokenizer_hash="")
    assert sorted(os.listdir(tmp_path / "tokens")) == ["index.json", "index.npz", "tokens-00000.bin"]
    with pytest.raises(UsageError, match="exists already"):
        write_shards(documents_of([6]), tmp_path / "tokens", vocab_size=300, tokenizer_hash="")
    assert TokenStore.open(tmp_path / "tokens").n_tokens == 5
