"""What goes in comes out, byte for byte, document by document; and every bad input is one sentence that names the file."""

import gzip
import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from groundup.data import Document, open_corpus
from groundup.errors import UsageError

LONG = "The quick brown fox.\n" * 200


def read(*sources, **options):
    return list(open_corpus([str(source) for source in sources], **options).documents())


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def jsonl(*rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.md.zst", "noextension"])
def test_a_text_file_is_one_document_byte_for_byte(tmp_path, name):
    text = "naïve\r\n\ttext\n".encode() + b"\xff\xfe\n"
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix, bytes)
    assert read(write(tmp_path / name, pack(text))) == [Document(name, text)]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 13, 1 << 20])
def test_separators_split_a_file_wherever_a_chunk_ends(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr("groundup.data.formats.CHUNK_BYTES", chunk_bytes)
    path = write(tmp_path / "a.txt", "one\n<|endoftext|>two <|endof text|><|endoftext|><|endoftext|>three<|endoftext|>")
    assert read(path) == [Document("a.txt#1", b"one\n"), Document("a.txt#2", b"two <|endof text|>"), Document("a.txt#4", b"three")]


def test_a_file_of_several_compressed_frames_is_read_whole(tmp_path):
    parts = [b"first ", b"second ", b"third"]
    both = [
        write(tmp_path / "a.zst", b"".join(map(zstandard.compress, parts))),
        write(tmp_path / "b.gz", b"".join(map(gzip.compress, parts))),
    ]
    assert [read(path)[0].text for path in both] == [b"first second third"] * 2


def test_a_folder_is_read_recursively_and_sorted_and_nothing_hidden(tmp_path):
    for name in ("b/z.txt", "b/a.txt", "a.txt", ".git/config", "c/.hidden", "ab.txt"):
        write(tmp_path / name, f"text of {name}")
    assert [document.id for document in read(tmp_path)] == ["a.txt", "ab.txt", "b/a.txt", "b/z.txt"]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_rows_of_tables_are_documents(tmp_path, suffix):
    texts = ["first", "zweite Zeile: ü\n", "third"]
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"n": [1, 2, 3], "body": texts}), path)
    else:
        pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(suffix.rpartition(".")[2], bytes)
        write(path, pack(jsonl(*({"n": 1, "body": text} for text in texts))))
    assert read(path, text_field="body") == [Document(f"{path.name}#{i}", text.encode()) for i, text in enumerate(texts, 1)]


def test_parquet_columns_of_bytes_large_strings_and_dictionaries_are_text(tmp_path):
    kinds = [pa.binary(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    for i, kind in enumerate(kinds):
        pq.write_table(pa.table({"text": pa.array(["one", None, "two"]).cast(kind)}), tmp_path / f"{i}.parquet")
        assert [document.text for document in read(tmp_path / f"{i}.parquet")] == [b"one", b"two"]


def test_a_missing_field_names_file_row_and_the_fields_there_are(tmp_path):
    rows = write(tmp_path / "a.jsonl", jsonl({"text": "fine"}, {"body": "x", "title": "y"}))
    with pytest.raises(UsageError, match=r"a\.jsonl row 2 has no field 'text'.*'body', 'title'"):
        read(rows)
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet row 1 has no field 'text'.*'body', 'title'"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("line", [b'{"text": "cut', b"[1, 2]", b'{"text": 5}', b"plain words", b'{"text": {"a": "b"}}'])
def test_rows_that_hold_no_text_are_named(tmp_path, line):
    with pytest.raises(UsageError, match=r"a\.jsonl row 2"):
        read(write(tmp_path / "a.jsonl", jsonl({"text": "fine"}) + line))


def test_a_parquet_field_that_is_no_text_is_named(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet row 1: field 'text' holds int64"):
        read(tmp_path / "a.parquet")


def test_jsonl_keeps_what_is_not_utf8_and_half_pairs_and_blank_lines_and_nulls(tmp_path):
    lines = b'\xef\xbb\xbf{"text": "a\xffb"}\n\n{"text": null}\r\n{"text": "\\ud800"}'
    corpus = open_corpus([str(write(tmp_path / "a.jsonl", lines))])
    assert [(d.id, d.text) for d in corpus.documents()] == [("a.jsonl#1", b"a\xffb"), ("a.jsonl#4", b"\xed\xa0\x80")]
    assert corpus.manifest()["invalid_utf8_bytes"] == 4
    assert corpus.manifest()["skipped"]["empty"] == 1


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_truncated_or_corrupt_file_is_named(tmp_path, name, damage):
    whole = jsonl(*({"text": f"{i} {LONG}"} for i in range(50)))
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": [f"{i} {LONG}" for i in range(50)]}), path)
    else:
        write(path, gzip.compress(whole) if name.endswith("gz") else zstandard.compress(whole))
    data = path.read_bytes()
    write(path, data[: len(data) // 2] if damage == "cut" else b"not compressed at all, but long enough to look")
    with pytest.raises(UsageError, match=name):
        read(path)


def test_binary_files_are_refused_by_name_and_passed_over_in_a_folder(tmp_path):
    binary = write(tmp_path / "picture.png", b"\x89PNG\0\0")
    with pytest.raises(UsageError, match=r"picture\.png is not text"):
        read(binary)
    with pytest.raises(UsageError, match=r"no text in it.*1 binary"):
        read(tmp_path)
    write(tmp_path / "words.txt", "words")
    corpus = open_corpus([str(tmp_path)])
    assert [document.id for document in corpus.documents()] == ["words.txt"]
    assert corpus.manifest()["skipped"] == {"binary": 1, "empty": 0, "duplicate": 0}


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_nothing_but_blanks_is_no_text(tmp_path, content):
    with pytest.raises(UsageError, match=r"no text in it.*1 empty"):
        read(write(tmp_path / "a.txt", content))


def test_sources_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere: does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError, match="void: the folder holds no files"):
        read(tmp_path / "void")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        read("/dev/null")


def test_a_file_that_goes_away_is_named(tmp_path):
    path = write(tmp_path / "a.txt", "text")
    corpus = open_corpus([str(path)])
    path.unlink()
    with pytest.raises(UsageError, match=r"a\.txt cannot be read \(No such file"):
        corpus.manifest()


def test_sources_are_concatenated_and_exact_copies_kept_once(tmp_path):
    write(tmp_path / "x/a.txt", "alpha")
    write(tmp_path / "x/copy.txt", "alpha")
    write(tmp_path / "y/b.txt", b"be\xffta\xc3")
    corpus = open_corpus([str(tmp_path / "x"), str(tmp_path / "y")])
    assert corpus.name == "x+y"
    for _ in range(2):  # a corpus can be read again
        assert list(corpus.documents()) == [Document("x/a.txt", b"alpha"), Document("y/b.txt", b"be\xffta\xc3")]
    manifest = corpus.manifest()
    assert (manifest["n_documents"], manifest["n_bytes"], manifest["invalid_utf8_bytes"]) == (2, 11, 2)
    assert manifest["skipped"]["duplicate"] == 1
    assert [row["id"] for row in manifest["documents"]] == ["x/a.txt", "y/b.txt"]
    json.dumps(manifest)


def test_packages_that_are_missing_are_named_with_the_command(tmp_path, monkeypatch):
    for module, source in (("zstandard", "a.zst"), ("pyarrow.parquet", "a.parquet"), ("huggingface_hub", "hub:owner/name")):
        monkeypatch.setitem(sys.modules, module, None)
        given = source if source.startswith("hub:") else str(write(tmp_path / source, "x"))
        with pytest.raises(UsageError, match=r"pip install 'groundup\[hub\]'"):
            read(given)


def fake_hub(monkeypatch, folder: Path, failure: Exception | None = None) -> list[dict]:
    """Puts a hub in place that has the files of the folder, and returns the list of downloads asked for."""

    class HTTPError(Exception):
        pass

    class RepositoryNotFoundError(HTTPError):
        pass

    class HFValidationError(ValueError):
        pass

    class HfApi:
        def dataset_info(self, repository):
            if repository == "owner/absent":
                raise RepositoryNotFoundError("404")
            if repository == "unreachable/name":
                raise failure or HTTPError("[Errno 111] Connection refused")
            files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return types.SimpleNamespace(sha="c0ffee", siblings=[types.SimpleNamespace(rfilename=file) for file in files])

    downloads = []
    hub, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    hub.HfApi = HfApi
    hub.snapshot_download = lambda repository, **options: downloads.append(options) or str(folder)
    errors.HTTPError, errors.RepositoryNotFoundError, errors.HFValidationError = HTTPError, RepositoryNotFoundError, HFValidationError
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return downloads


def test_the_hub_gives_the_text_files_of_a_dataset_or_of_its_subset(tmp_path, monkeypatch):
    write(tmp_path / "README.md", "not data")
    write(tmp_path / "en/a.jsonl", jsonl({"text": "english"}))
    write(tmp_path / "data/de/b.txt", "deutsch")
    downloads = fake_hub(monkeypatch, tmp_path)
    assert [document.text for document in read("hub:owner/name")] == [b"deutsch", b"english"]
    assert read("hub:owner/name:de") == [Document("data/de/b.txt", b"deutsch")]
    assert downloads[1] == {"repo_type": "dataset", "revision": "c0ffee", "allow_patterns": ["data/de/b.txt"]}
    with pytest.raises(UsageError, match="under 'fr': it has them in data/de, en"):
        read("hub:owner/name:fr")


@pytest.mark.parametrize("failure", [None, ConnectionError("offline mode is enabled. Unset it.\nmore")])
def test_a_hub_out_of_reach_is_one_sentence(tmp_path, monkeypatch, failure):
    fake_hub(monkeypatch, tmp_path, failure)
    with pytest.raises(UsageError, match="unreachable/name: the download failed") as error:
        read("hub:unreachable/name")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="no dataset 'owner/absent'"):
        read("hub:owner/absent")


def test_the_default_corpus_is_the_standard_library_with_its_topics_one_by_one():
    corpus = open_corpus([])
    manifest = corpus.manifest()
    ids = {row["id"] for row in manifest["documents"]}
    assert corpus.name == "stdlib"
    assert {"argparse.py", "json/decoder.py", "pydoc_data/topics/lambda"} <= ids
    assert "pydoc_data/topics.py" not in ids
    assert not [
        id for id in ids if {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"} & set(id.split("/")[:-1])
    ]
    assert len(ids) == manifest["n_documents"] > 500
    assert manifest["n_bytes"] == sum(row["n_bytes"] for row in manifest["documents"]) > 5_000_000
    topic = next(document.text for document in corpus.documents() if document.id == "pydoc_data/topics/lambda")
    assert topic.startswith(b"Lambdas\n")


@pytest.mark.parametrize("folder", ["", "absent"])
def test_a_python_without_library_sources_says_so(tmp_path, monkeypatch, folder):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path / folder)})
    with pytest.raises(UsageError, match=r"stdlib: this Python has no library sources"):
        read()
