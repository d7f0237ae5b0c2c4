"""Data: text in, batches out. Bytes -> documents (``open_corpus``) -> splits (``assign_splits``) -> token shards (``write_shards``,
``TokenStore``) -> batches (``BatchStream`` for training, ``evaluation_windows`` for scoring). Nothing here knows torch."""

from groundup.data.batches import Batch, BatchStream, evaluation_windows
from groundup.data.corpus import Corpus, open_corpus
from groundup.data.formats import SEPARATOR, Document
from groundup.data.shards import ShardsWriter, TokenStore, write_shards
from groundup.data.splits import SPLITS, Split, Splits, assign_splits, take

__all__ = [
    "SEPARATOR",
    "SPLITS",
    "Batch",
    "BatchStream",
    "Corpus",
    "Document",
    "ShardsWriter",
    "Split",
    "Splits",
    "TokenStore",
    "assign_splits",
    "evaluation_windows",
    "open_corpus",
    "take",
    "write_shards",
]
