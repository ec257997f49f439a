"""The exceptions of the package. Arguments raise ValueError, TypeError and IndexError; these are for the rest."""

from contextlib import contextmanager

__all__ = ["FileFormatError", "NonFiniteError", "ShapeError", "named"]


class FileFormatError(ValueError):
    """A file is not what it should be: cut short, damaged, or of another format.

    The message begins with the file's name and says what is wrong, and where. A file that is missing or may not be
    read raises the operating system's OSError instead.
    """


class ShapeError(ValueError):
    """Shapes do not fit together. Raised when a node of a graph is made; the message names the operation and both shapes."""


@contextmanager
def named(what):
    """An error of an argument that is raised in the block says first `what` the argument belongs to."""
    try:
        yield
    except (ValueError, TypeError) as e:
        kind = next(c for c in (ShapeError, ValueError, TypeError) if isinstance(e, c))
        raise kind(f"{what}: {e}") from e


class NonFiniteError(FloatingPointError):
    """A loss became NaN or infinite while training. The weights are those of the last whole step before it."""
