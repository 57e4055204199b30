"""Errors that a run can end with, one class for each exit code.

Every message is one line that says what is wrong, where, and what to do. ``text/commands/cli.py`` turns each kind into
its exit code.
"""


class UsageError(ValueError):
    """Invalid value for a command-line flag. Exit code 2."""


class DataError(ValueError):
    """Invalid content of an input file. Exit code 3."""


class ArtifactError(ValueError):
    """A saved model, tokenizer, checkpoint or result that is damaged or belongs to something else. Exit code 5."""


class NonFiniteLossError(ArithmeticError):
    """A loss, or a series of gradients, that is NaN or infinite. The weights were not updated. Exit code 6."""


class SettingsWarning(UserWarning):
    """A setting that decides results and that a file does not state. Commands print it as one line."""


class InterruptedRun(Exception):
    """A signal that ended the run after its state was saved. Exit code 143."""
