"""What a run can fail with, for the person who must act.

Every message is one line: where, what was found, what was expected. The drivers in
``examples/dpr`` turn each kind into an exit code.
"""


class DataError(ValueError):
    """An input file does not hold what was expected. Exit code 3."""


class ArtifactError(ValueError):
    """A saved model, tokenizer or checkpoint is corrupt or belongs to something else. Exit code 5."""


class NonFiniteLossError(ArithmeticError):
    """The loss, or gradient after gradient, is NaN or infinite, so that no update was made. Exit code 6."""


class InterruptedRun(Exception):
    """A signal ended the run; what could be saved is. Exit code 143."""
