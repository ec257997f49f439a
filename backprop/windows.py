"""Windows over sentences: each word with its neighbours, and corrupted windows to tell them from.

``museums in Paris are amazing`` with two words on each side of *Paris* is one window of five rows of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np

from . import _core
from .arrays import check_array

__all__ = ["Windows", "corrupt_windows", "windows"]


class Windows(NamedTuple):
    """A window for each word, in the order of the words.

    Attributes
    ----------
    ids : int32, shape (n, 2 size + 1)
        The word in the middle, its neighbours in order, padding beyond the sentence.
    sentence, position : int32, shape (n,)
        Which sentence the word is from, and its place there.
    """

    ids: np.ndarray
    sentence: np.ndarray
    position: np.ndarray


def windows(sentences, size=2, *, pad=None, vocabulary=None, unknown=None):
    """A window of ``2 size + 1`` words around each word of each sentence.

    Parameters
    ----------
    sentences : list of sequences
        Of rows of an embedding (whole numbers), or with a `vocabulary` of tokens (str). A sentence may be empty.
    size : int
        Neighbours on each side.
    pad : int, or str with a vocabulary
        What stands beyond the ends of a sentence. May be left out where the vocabulary has a padding word.
    vocabulary : WordVectors, or mapping of str to int, optional
    unknown : int or str, optional
        What stands for tokens that the vocabulary lacks; by default its word for them, else such a token is a KeyError.

    Returns
    -------
    Windows
    """
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < 0:
        raise ValueError(f"size must be a whole number of at least 0, got {size!r}")
    if isinstance(sentences, str) or not hasattr(sentences, "__iter__"):
        raise TypeError(f"sentences must be a list of lists, got {type(sentences).__name__}")
    sentences, size = list(sentences), int(size)
    for i, sentence in enumerate(sentences):
        if isinstance(sentence, str) or not hasattr(sentence, "__len__"):
            raise TypeError(f"sentences[{i}] must be a list of {'ids' if vocabulary is None else 'tokens'}, got {sentence!r:.60}")
    ids, pad = _rows(chain.from_iterable(sentences), pad, vocabulary, unknown)
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    sentence = np.repeat(np.arange(len(sentences), dtype=np.int32), lengths)
    # `size` padding words before, between and behind the sentences: word i then stands at i + size (sentence + 1).
    at = np.arange(len(ids)) + size * (sentence.astype(np.int64) + 1)
    padded = np.full(len(ids) + size * (len(sentences) + 1), pad, np.int32)
    padded[at] = ids
    position = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Windows(padded[at[:, None] + np.arange(-size, size + 1)], sentence, position.astype(np.int32))


def _rows(tokens, pad, vocabulary, unknown):
    """-> (rows of all tokens, the row of padding)."""
    if vocabulary is None:
        if unknown is not None:
            raise ValueError("unknown is for tokens, and needs a vocabulary")
        if not hasattr(pad, "__index__"):
            raise ValueError(f"pad must be the row of a padding word, got {pad!r}")
        ids = list(tokens)
        if ids and isinstance(ids[0], str):
            raise TypeError("sentences of tokens need a vocabulary")
        return check_array("sentences", np.array(ids, None if ids else np.int32), np.int32, ndim=1, empty=True), int(pad)
    if isinstance(vocabulary, Mapping):
        def look_up(word):
            return vocabulary[word] if isinstance(word, str) else word
        if unknown is None:
            ids = [vocabulary[token] for token in tokens]
        else:
            unknown = look_up(unknown)
            ids = [vocabulary.get(token, unknown) for token in tokens]
        ids = np.array(ids, np.int32)
    else:
        look_up = vocabulary.index
        ids = vocabulary.ids(tokens, unknown)
        pad = vocabulary.padding if pad is None else pad
    if pad is None:
        raise ValueError("pad must be given: the vocabulary has no padding word")
    return ids, int(look_up(pad) if isinstance(pad, str) else pad)


def corrupt_windows(ids, candidates, seed=0):
    """The windows with another word, drawn at random, in the middle of each.

    For the loss max(0, 1 - s + s_c), which asks that a true window scores higher, by a margin, than one that makes no sense
    (Collobert et al. 2011). Another seed draws anew.

    Parameters
    ----------
    ids : int array, shape (n, 2 size + 1)
        Windows.
    candidates : int, int array of shape (k,), or WordVectors
        Words to draw from: rows 0 to candidates - 1, these rows, or all words but padding and unknown.
    seed : int

    Returns
    -------
    int32, shape (n, 2 size + 1)
        A copy; no word in the middle is the one that stood there.
    """
    ids = check_array("ids", ids, np.int32, ndim=2, empty=True)
    if ids.shape[1] % 2 == 0:
        raise ValueError(f"ids has shape {ids.shape}; windows have a word in the middle, an odd number of columns")
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number in [0, 2^64), got {seed!r}")
    if hasattr(candidates, "matrix"):
        roles = [row for row in (candidates.padding, candidates.unknown) if row is not None]
        candidates = np.setdiff1d(np.arange(len(candidates), dtype=np.int32), roles)
    elif hasattr(candidates, "__index__") and np.ndim(candidates) == 0:
        candidates = np.arange(candidates, dtype=np.int32)
    else:
        candidates = np.unique(check_array("candidates", candidates, np.int32, ndim=1))
    if len(candidates) < 2:
        raise ValueError(f"candidates must be at least two words, to have another one; got {len(candidates)}")
    middle = ids[:, ids.shape[1] // 2]
    place = np.searchsorted(candidates, middle)
    own = candidates[np.minimum(place, len(candidates) - 1)] == middle
    # One of the others: the places from the word's own on move up by one.
    drawn = (_core.uniform(len(ids), int(seed), 0) * (len(candidates) - own)).astype(np.int64)
    out = ids.copy()
    out[:, ids.shape[1] // 2] = candidates[drawn + (own & (drawn >= place))]
    return out
