"""The exceptions of the package. Arguments raise ValueError, TypeError and IndexError; these are for the rest."""

__all__ = ["FileFormatError", "NonFiniteError", "ShapeError"]


class FileFormatError(ValueError):
    """A file is not what it should be: cut short, damaged, or of another format.

    The message begins with the file's name and says what is wrong, and where. A file that is missing or may not be
    read raises the operating system's OSError instead.
    """


class ShapeError(ValueError):
    """Shapes do not fit together. Raised when a node of a graph is made; the message names the operation and both shapes."""


class NonFiniteError(FloatingPointError):
    """A loss became NaN or infinite while training. The weights are those of the last whole step before it."""
