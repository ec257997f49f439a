"""Word vectors: looked up, searched, read and written; and whether to train them further.

The words are one block of bytes with a hash table over it, so what a large set of vectors takes is its matrix and little else.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Sequence

import numpy as np

from . import _core, ops, vectorfiles
from .arrays import check_array
from .eager import compile

__all__ = ["UntouchedWords", "WordVectors", "fine_tuning_advice", "untouched_words"]


class _WordList(Sequence):
    """The words of a table, read-only, decoded as they are looked at."""

    def __init__(self, table):
        self._table = table

    def __len__(self):
        return len(self._table)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = i.__index__()
        return self._table.get(i + len(self) if i < 0 else i).decode()

    def __contains__(self, word):
        return isinstance(word, str) and self._table.find(word) >= 0

    def __repr__(self):
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self)} words: {shown}{', ...' if len(self) > 3 else ''}>"


class WordVectors:
    """Words, and a vector for each.

    Parameters
    ----------
    words : iterable of str
        Each once.
    matrix : array_like of finite numbers, shape (V, d)
        Row i is the vector of word i. A float32 array is taken as it is, not copied.
    padding, unknown : str, optional
        Words of `words` that stand for no word at all, and for any other word.

    Attributes
    ----------
    words : sequence of str, length V
    matrix : float32, shape (V, d)
        Writable.
    padding, unknown : int or None
        Rows of these words.
    duplicates : int
        Words that a file held again; the first of each was taken.
    """

    def __init__(self, words, matrix, *, padding=None, unknown=None):
        if isinstance(words, str) or not hasattr(words, "__iter__"):
            raise TypeError(f"words must be a list of words, got {words!r:.80}")
        self._table = _core.Words(words)
        self.matrix = check_array("matrix", matrix, np.float32, ndim=2, finite=True, empty=True)
        if len(self.matrix) != len(self._table):
            raise ValueError(f"matrix has shape {self.matrix.shape}, there are {len(self._table)} words")
        self.duplicates = 0
        self.padding = None if padding is None else self.index(padding)
        self.unknown = None if unknown is None else self.index(unknown)

    @classmethod
    def _of(cls, table, matrix, duplicates=0):
        self = cls.__new__(cls)
        self._table, self.matrix, self.duplicates = table, matrix, duplicates
        self.padding = self.unknown = None
        return self

    # ------------------------------------------------------------------------------------------------ files

    @classmethod
    def load(cls, path, vocabulary=None, format=None, encoding="utf-8", errors="strict", max_bytes=1 << 36):
        """Read a file of word vectors, gzip-compressed or not (its first bytes tell).

        Parameters
        ----------
        path : path-like
        vocabulary : iterable of str, optional
            Keep only these words (those of them that the file holds, in the file's order).
        format : {"glove", "word2vec", "binary"}, optional
            A line for each word, with its numbers; the same below a line "V d"; word2vec's binary records of float32 below
            such a line. By default the content tells: two whole numbers in line 1 are such a header.
        encoding, errors : str
            Of the words, as in `bytes.decode`.
        max_bytes : int
            Of a compressed file, what it may become.

        Returns
        -------
        WordVectors
            Numbers are those of ``np.float32(float(text))``. Of a word that stands twice the first is kept.

        Raises
        ------
        FileFormatError
            Where a line is malformed, with its number; where a header and what follows differ, where the file is cut short or
            holds no vector. Memory grows only with what has been read.
        """
        if format not in (None, *vectorfiles.FORMATS):
            raise ValueError(f"format must be one of {', '.join(vectorfiles.FORMATS)} or None, got {format!r}")
        codec = codecs.lookup(encoding)  # a LookupError here, before any work
        codecs.lookup_error(errors)
        if isinstance(vocabulary, str):
            raise TypeError("vocabulary must be a list of words, not one text")
        wanted = None if vocabulary is None else _core.Words(dict.fromkeys(vocabulary))
        table, matrix, duplicates = vectorfiles.read(path, wanted, format, codec, errors, max_bytes)
        return cls._of(table, matrix, duplicates)

    def save(self, path, format="glove"):
        """Write a file that `load` reads back bit for bit; gzip-compressed where its name ends in ``.gz``.

        Parameters
        ----------
        path : path-like
        format : {"glove", "word2vec", "binary"}
            As in `load`. Numbers have nine significant digits in text.

        Raises
        ------
        ValueError
            There is no word; a word could not be told apart in this format; a number is not finite. Nothing is written then.
        """
        if format not in vectorfiles.FORMATS:
            raise ValueError(f"format must be one of {', '.join(vectorfiles.FORMATS)}, got {format!r}")
        if not len(self) or not self.dim:
            raise ValueError(f"no format holds a matrix of shape {self.matrix.shape}")
        check_array("matrix", self.matrix, np.float32, finite=True)
        for word in self.words:
            if len(word.split()) != 1 or word.strip() != word:
                raise ValueError(f"word {word!r} holds white space: a reader could not tell where it ends")
        vectorfiles.write(path, self._table, self.matrix, format)

    # ------------------------------------------------------------------------------------------------ looking up

    @property
    def words(self):
        return _WordList(self._table)

    @property
    def dim(self):
        """Numbers in a vector."""
        return self.matrix.shape[1]

    def __len__(self):
        return len(self._table)

    def __contains__(self, word):
        return word in self.words

    def __repr__(self):
        return f"<WordVectors {self.matrix.shape}, {self.words!r}>"

    def index(self, word):
        """The row of a word; KeyError where there is none."""
        at = self._table.find(word)
        if at < 0:
            raise KeyError(f"{word!r} is not among the {len(self)} words")
        return at

    def __getitem__(self, word):
        """The vector of a word, a view of shape (d,); of a list of words their vectors, (n, d)."""
        return self.matrix[self.index(word) if isinstance(word, str) else self.ids(word)]

    def ids(self, tokens, unknown=None):
        """The rows of many words.

        Parameters
        ----------
        tokens : iterable of str
        unknown : int or str, optional
            What stands for a word that is missing: a row, or a word that is there. By default the attribute `unknown`; where
            that is None a missing word is a KeyError.

        Returns
        -------
        int32, shape (n,)
        """
        if isinstance(tokens, str):
            raise TypeError("tokens must be a list of words, not one text")
        if unknown is None:
            unknown = -1 if self.unknown is None else self.unknown
        elif isinstance(unknown, str):
            unknown = self.index(unknown)
        elif not hasattr(unknown, "__index__") or not 0 <= unknown < len(self):
            raise ValueError(f"unknown must be a word or a row, 0 to {len(self) - 1}, got {unknown!r}")
        return self._table.ids(tokens, int(unknown))

    # ------------------------------------------------------------------------------------------------ selections

    def subset(self, words):
        """The vectors of those of `words` that are there, in their order, each once; words with a role come first."""
        roles = [None if row is None else self.words[row] for row in (self.padding, self.unknown)]
        if isinstance(words, str):
            raise TypeError("words must be a list of words, not one text")
        chosen = [w for w in dict.fromkeys([*filter(None, roles), *words]) if w in self]
        return WordVectors(chosen, self.matrix[self.ids(chosen)], padding=roles[0], unknown=roles[1])

    def with_special(self, padding="<pad>", unknown="<unk>"):
        """The vectors with a word for padding and one for unknown words, which `ids` and `windows` then use by themselves.

        A word that is not there yet gets a row of its own in front: zeros for padding, the mean of all vectors for unknown
        words. None leaves a role out.
        """
        roles = {"padding": padding, "unknown": unknown}
        new = [w for w in dict.fromkeys(roles.values()) if w is not None and w not in self]
        rows = np.zeros((len(new), self.dim), np.float32)
        if unknown in new and len(self):
            rows[new.index(unknown)] = self.matrix.mean(axis=0, dtype=np.float64)
        if padding is not None and padding == unknown:
            raise ValueError(f"padding and unknown are both {padding!r}")
        return WordVectors([*new, *self.words], np.concatenate([rows, self.matrix]), **roles)

    # ------------------------------------------------------------------------------------------------ meaning

    def nearest(self, word, n=10):
        """The words whose vectors point most nearly the same way.

        Parameters
        ----------
        word : str, or array_like of shape (d,)
        n : int

        Returns
        -------
        list of (str, float)
            Words with the cosine of the angle, the nearest first; the word asked for is left out, and so are the rows for padding
            and unknown words. Zero vectors have cosine 0.
        """
        if isinstance(word, str):
            at = self.index(word)
            return self._nearest(self.matrix[at], n, {at})
        return self._nearest(check_array("word", word, np.float32, ndim=1, finite=True), n, set())

    def analogy(self, a, b, c, n=10):
        """What is to `c` as `b` is to `a` (Mikolov et al. 2013): the words nearest to b - a + c, each at length 1.

        Returns
        -------
        list of (str, float)
            As from `nearest`, without the three words.
        """
        rows = [self.index(w) for w in (a, b, c)]
        vectors = self.matrix[rows].astype(np.float64)
        length = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        a, b, c = vectors / np.where(length > 0, length, 1.0)
        return self._nearest((b - a + c).astype(np.float32), n, set(rows))

    def _nearest(self, vector, n, without):
        if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
            raise ValueError(f"n must be a whole number of at least 1, got {n!r}")
        if vector.shape != (self.dim,):
            raise ValueError(f"the vector has shape {vector.shape}, those of the words ({self.dim},)")
        lengths = np.sqrt(np.einsum("ij,ij->i", self.matrix, self.matrix) * (vector @ vector))
        cosine = _product(self.matrix, vector[:, None])[:, 0] / np.where(lengths > 0, lengths, 1)
        without = without | {i for i in (self.padding, self.unknown) if i is not None}
        cosine[list(without)] = -np.inf
        n = min(int(n), len(self) - len(without))
        best = np.argpartition(-cosine, n - 1)[:n] if n else []
        return [(self.words[i], float(cosine[i])) for i in sorted(best, key=lambda i: (-cosine[i], i))]


@compile
def _product(m, v):
    """m (V, d), v (d, 1) -> (V, 1): this way round the matrix is read where it lies, not copied."""
    return ops.matmul(m, v)


# ---------------------------------------------------------------------------------------------------- freeze or fine-tune


def fine_tuning_advice(n_training_words):
    """Whether pre-trained vectors should be trained further, by the number of words (tokens) in the training data.

    The rule of thumb of Stanford's CS224N (2019, lecture 4): with a few hundred thousand words leave them as they are, with
    more than a million train them; between, try both.
    """
    if isinstance(n_training_words, bool) or not hasattr(n_training_words, "__index__") or n_training_words < 0:
        raise ValueError(f"n_training_words must be a whole number of at least 0, got {n_training_words!r}")
    n = f"{int(n_training_words):,} training words"
    if n_training_words < 500_000:
        return f"{n}: freeze the vectors (trainable=False); training would move only the few words it sees, away from the rest"
    if n_training_words <= 1_000_000:
        return f"{n}: try both, frozen and fine-tuned vectors, and keep what does better on held-out data"
    return f"{n}: fine-tune the vectors (trainable=True)"


@dataclasses.dataclass(frozen=True)
class UntouchedWords:
    """What `untouched_words` found.

    Attributes
    ----------
    words : list of str
        The words of the vocabulary that training never touched, in its order.
    ids : int32, shape (len(words),)
        Their rows.
    n_words, n_training : int
        Words of the vocabulary, without padding; tokens of the training data.
    evaluation_share : float or None
        The share of the evaluation data's tokens that are such words.
    """

    words: list
    ids: np.ndarray
    n_words: int
    n_training: int
    evaluation_share: float | None

    @property
    def advice(self):
        """Freeze or fine-tune: `fine_tuning_advice` for this training data."""
        return fine_tuning_advice(self.n_training)

    def __str__(self):
        shown = ", ".join(self.words[:8]) + (", ..." if len(self.words) > 8 else "")
        lines = [f"training never touches {len(self.words):,} of {self.n_words:,} words" + (f": {shown}" if shown else "")]
        if self.evaluation_share is not None:
            lines.append(f"{self.evaluation_share:.1%} of the tokens to be judged are such words: fine-tuning leaves them behind")
        return "\n".join([*lines, self.advice])


def untouched_words(words, training_ids, evaluation_ids=None):
    """The words that training never touches: fine-tuning moves the others, and these stay where they were.

    Parameters
    ----------
    words : WordVectors, or sequence of str
        The vocabulary. The padding of WordVectors counts as no word.
    training_ids, evaluation_ids : array_like of int, any shape
        Rows of the vocabulary that the data consist of.

    Returns
    -------
    UntouchedWords
        Its text is a report.
    """
    if isinstance(words, str) or not isinstance(words, (WordVectors, Sequence)):
        raise TypeError(f"words must be WordVectors or a list of words, got {type(words).__name__}")
    padding = words.padding if isinstance(words, WordVectors) else None
    words = words.words if isinstance(words, WordVectors) else words

    def counted(name, ids):
        ids = check_array(name, ids, np.int64, empty=True).reshape(-1)
        if ids.size and not (0 <= ids.min() and ids.max() < len(words)):
            raise ValueError(f"{name} must lie in 0 to {len(words) - 1}, got {ids.min()} to {ids.max()}")
        counts = np.bincount(ids, minlength=len(words))
        if padding is not None:
            counts[padding] = 0
        return counts

    training = counted("training_ids", training_ids)
    untouched = training == 0
    if padding is not None:
        untouched[padding] = False
    ids = np.flatnonzero(untouched).astype(np.int32)
    share = None
    if evaluation_ids is not None:
        evaluation = counted("evaluation_ids", evaluation_ids)
        share = float(evaluation[untouched].sum() / max(evaluation.sum(), 1))
    return UntouchedWords([words[i] for i in ids], ids, len(words) - (padding is not None), int(training.sum()), share)
