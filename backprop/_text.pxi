# Doors to text.c: words, and files of word vectors. Included by _core.pyx.

from cpython.bytes cimport PyBytes_GET_SIZE, PyBytes_FromStringAndSize
from libc.stdlib cimport free

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    double PyOS_string_to_double(const char *, char **, void *) except? -1.0

cdef extern from "backprop.h" nogil:
    ctypedef struct bp_words
    bp_words *bp_words_new()
    void bp_words_free(bp_words *)
    int64_t bp_words_count(const bp_words *)
    const char *bp_words_get(const bp_words *, int64_t i, int64_t *n)
    int64_t bp_words_find(const bp_words *, const char *word, int64_t n)
    int64_t bp_words_add(bp_words *, const char *word, int64_t n)

    ctypedef double (*bp_exact_fn)(void *arg, const char *begin, const char *end) noexcept nogil
    const char *bp_decimal(const char *p, float *out, bp_exact_fn exact, void *arg)
    ctypedef struct bp_vectors
    ctypedef struct bp_vectors_args:
        int binary, utf8
        int64_t dim, announced, line
        const bp_words *wanted
        bp_exact_fn exact
        void *arg
    ctypedef struct bp_vectors_counts:
        int64_t words, dim, seen, duplicates
    bp_vectors *bp_vectors_new(const bp_vectors_args *)
    void bp_vectors_free(bp_vectors *)
    int64_t bp_vectors_feed(bp_vectors *, const char *data, int64_t n, char *err, size_t err_size)
    bp_vectors_counts bp_vectors_count(const bp_vectors *)
    void bp_vectors_take(bp_vectors *, bp_words **words, float **matrix)


cdef double exact_double(void *arg, const char *begin, const char *end) noexcept with gil:
    """The nearest double of a number that text.c has found well-formed; NaN where memory is out."""
    try:
        text = PyBytes_FromStringAndSize(begin, end - begin)  # ends with a zero byte
        return PyOS_string_to_double(PyBytes_AsString(text), NULL, NULL)  # infinite where it is too large
    except BaseException:
        return float("nan")


def decimals(bytes text not None):
    """The decimal numbers of a text, one a line, as float32 (for the tests); ValueError where one is malformed."""
    cdef const char *p = PyBytes_AsString(text)  # what follows the last is a zero byte
    cdef const char *end = p + len(text)
    cdef float x = 0
    out = []
    while p < end:
        with nogil:
            p = bp_decimal(p, &x, exact_double, NULL)
        if p == NULL or (p[0] != b"\n" and p != end):
            raise ValueError(f"number {len(out)} is malformed")
        out.append(x)
        p += 1
    return numpy.array(out, numpy.float32)


cdef class Words:
    """Words by number and numbers by word, in a block of bytes: some 20 bytes a word besides its own.

    Parameters
    ----------
    words : iterable of str
        Not empty, each once.

    Raises
    ------
    ValueError, TypeError
        A word stands twice, is empty or is no text.
    """
    cdef bp_words *table

    def __cinit__(self, words=()):
        self.table = bp_words_new()
        if self.table == NULL:
            raise MemoryError
        cdef int64_t count
        for word in words:
            count = bp_words_count(self.table)
            if self.add(word) != count:
                raise ValueError(f"words: {word!r} stands twice")

    def __dealloc__(self):
        bp_words_free(self.table)

    def add(self, word):
        """The number of a word, which joins where it is new."""
        cdef Py_ssize_t n = 0
        if not isinstance(word, str):
            raise TypeError(f"words: a word is text, got {type(word).__name__}")
        cdef const char *text = PyUnicode_AsUTF8AndSize(word, &n)
        if n == 0:
            raise ValueError("words: a word is empty")
        cdef int64_t at = bp_words_add(self.table, text, n)
        if at < 0:
            raise MemoryError
        return at

    def find(self, word):
        """The number of a word, or -1."""
        if not isinstance(word, str):
            raise TypeError(f"a word is text, got {type(word).__name__}")
        cdef Py_ssize_t n = 0
        cdef const char *text
        try:
            text = PyUnicode_AsUTF8AndSize(word, &n)
        except UnicodeEncodeError:  # half a surrogate pair is in no file
            return -1
        return bp_words_find(self.table, text, n)

    def __len__(self):
        return bp_words_count(self.table)

    def get(self, int64_t i):
        """Word number i as it stood in the file."""
        cdef int64_t n = 0
        if i < 0 or i >= bp_words_count(self.table):
            raise IndexError(f"word {i} is out of range for {len(self)} words")
        cdef const char *text = bp_words_get(self.table, i, &n)
        return PyBytes_FromStringAndSize(text, n)

    def ids(self, tokens, int64_t unknown):
        """The numbers of an iterable of words: int32 (n,), `unknown` where there is none; KeyError where that is negative."""
        cdef list given = list(tokens)
        out = numpy.empty(len(given), numpy.int32)
        cdef _Array a = _Array(out, "out", b"i", True, 1)
        cdef int32_t *p = <int32_t *>a.view.buf
        cdef int64_t i, at
        for i in range(len(given)):
            if not isinstance(given[i], str):
                raise TypeError(f"tokens[{i}] must be text, got {type(given[i]).__name__}")
            at = self.find(given[i])
            if at < 0:
                if unknown < 0:
                    raise KeyError(f"tokens[{i}] = {given[i]!r} is not among the {len(self)} words")
                at = unknown
            p[i] = <int32_t>at
        return out


cdef class _Block:
    """The buffer of a block of memory that is freed with it."""
    cdef void *start
    cdef Py_ssize_t size

    def __dealloc__(self):
        free(self.start)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.size, 0, flags)


cdef class VectorReader:
    """Reads word vectors out of the bytes of a file, given chunk by chunk; backprop.h describes the formats.

    Parameters
    ----------
    binary : bool
    dim, announced, line : int
        Numbers a word (0: the first line tells); vectors that a header speaks of (-1: none); lines before the first chunk.
    wanted : Words, optional
        Only these.
    utf8 : bool
        Words must be valid UTF-8.
    """
    cdef bp_vectors *reader
    cdef Words wanted

    def __cinit__(self, bint binary, int64_t dim, int64_t announced=-1, int64_t line=0, Words wanted=None, bint utf8=True):
        cdef bp_vectors_args args
        memset(&args, 0, sizeof(args))
        if dim < 0 or (binary and (dim == 0 or announced < 0)):
            raise ValueError(f"dim, announced: at least 1 and 0 in a binary file, got {dim}, {announced}")
        args.binary = binary
        args.utf8 = utf8
        args.dim = dim
        args.announced = announced
        args.line = line
        args.exact = exact_double
        if wanted is not None:
            args.wanted = wanted.table
            self.wanted = wanted  # keeps it
        self.reader = bp_vectors_new(&args)
        if self.reader == NULL:
            raise MemoryError

    def __dealloc__(self):
        bp_vectors_free(self.reader)

    cdef int check_open(self) except -1:
        if self.reader == NULL:
            raise RuntimeError("this reader has given its vectors away")
        return 0

    def feed(self, data):
        """Takes whole lines, or records, from the start of a contiguous buffer of bytes: how many bytes were taken.

        Raises
        ------
        ValueError
            The bytes are malformed; the message says where. The reader is of no further use.
        """
        cdef char err[256]
        cdef Py_buffer view
        cdef int64_t used
        self.check_open()
        cdef bp_vectors *reader = self.reader
        PyObject_GetBuffer(data, &view, PyBUF_C_CONTIGUOUS)
        err[0] = 0
        try:
            self.reader = NULL  # nobody else may feed it meanwhile
            with nogil:
                used = bp_vectors_feed(reader, <const char *>view.buf, view.len, err, sizeof(err))
        finally:
            self.reader = reader
            PyBuffer_Release(&view)
        if used < 0:
            raise ValueError(err.decode(errors="replace"))
        return used

    @property
    def counts(self):
        """(words kept, numbers a word, vectors seen, duplicates among them)"""
        self.check_open()
        cdef bp_vectors_counts c = bp_vectors_count(self.reader)
        return c.words, c.dim, c.seen, c.duplicates

    def take(self):
        """The words and their numbers, Words and float32 (n, dim). The reader is empty then."""
        self.check_open()
        cdef bp_vectors_counts c = bp_vectors_count(self.reader)
        cdef Words words = Words.__new__(Words)
        cdef _Block block = _Block.__new__(_Block)
        bp_words_free(words.table)
        bp_vectors_take(self.reader, &words.table, <float **>&block.start)
        bp_vectors_free(self.reader)
        self.reader = NULL
        block.size = c.words * c.dim * 4
        if c.words == 0:
            return words, numpy.empty((0, c.dim), numpy.float32)
        return words, numpy.frombuffer(block, numpy.float32).reshape(c.words, c.dim)
