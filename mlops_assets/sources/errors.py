"""What a source loader raises."""


class SourceError(ValueError):
    """A source cannot be read: a file is missing, empty or broken, or lacks a column the loader needs.

    The message names the file, the columns it is about, and what to do.
    """
