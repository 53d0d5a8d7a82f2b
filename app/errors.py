"""The exceptions that a person can act on. Their text is shown as it is: one sentence on what is wrong, one on the cure.

UserError
|-- InvalidQuestion        the conversation cannot be answered as it was sent
|   `-- QuestionTooLong    ... because it is too long
|-- AdapterError           the adapter cannot be used
|   |-- AdapterNotFound    ... it is not there
|   |-- UnsafeAdapter      ... it holds files that could run code
|   `-- ContractViolation  ... it would not behave here as it did in training
|-- HubUnavailable         the Hub did not answer, or did not let us in
|-- DataError              training data cannot be read
|-- ConfigError            a setting is unknown or out of range
|-- DeployFailed           the Space does not run as spaces.yaml says
|-- StorageError           a file could not be written
|-- TrainingFailed         training cannot go on
|-- NotReady               the model is still loading, or could not be loaded
|-- Busy                   the queue is full
|   |-- RateLimited        ... this client, or all together, have asked too often
|   `-- BudgetSpent        ... the tokens of the day have been used up
`-- GenerationFailed       the model failed in the middle of an answer
"""

import errno


class UserError(Exception):
    """Base class; `str(error)` is written for the person who sees it and holds nothing of a chat."""


def of_system(error: OSError) -> str:
    """What the operating system would not do, for people: the sentence where no module knew a better one."""
    what = f" with {str(error.filename)[:200]}" if error.filename else ""
    cure = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "Look at the file's place, kind and rights"
    return f"A file could not be read or written{what} ({error.strerror or type(error).__name__}). {cure}, and try again."


class InvalidQuestion(UserError):
    """The conversation cannot be answered as it was sent."""


class QuestionTooLong(InvalidQuestion):
    """The conversation is longer than the limits allow."""


class AdapterError(UserError):
    """The adapter cannot be used."""


class AdapterNotFound(AdapterError):
    """There is no adapter there."""


class UnsafeAdapter(AdapterError):
    """The adapter holds files that could run code when opened."""


class ContractViolation(AdapterError):
    """The adapter, its tokenizer, its template or its base differ from what was trained."""


class HubUnavailable(UserError):
    """The Hub did not answer or refused access."""


class DataError(UserError):
    """Training data cannot be read."""


class ConfigError(UserError):
    """A setting is unknown or out of range."""


class DeployFailed(UserError):
    """The Space does not run as spaces.yaml says."""


class StorageError(UserError):
    """A file could not be written."""


class TrainingFailed(UserError):
    """Training cannot go on: memory is out, or the loss is no number."""


class NotReady(UserError):
    """The model is still loading, or could not be loaded."""


class Busy(UserError):
    """The queue is full.

    Attributes:
        retry_after: Seconds after which another try makes sense.
    """

    def __init__(self, message: str, retry_after: int = 10) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @classmethod
    def full(cls, length: int) -> "Busy":
        """Says that `length` questions are waiting or being answered and no more may wait."""
        return cls(f"The queue is full: {length} questions before yours. Try again in a moment.")


class RateLimited(Busy):
    """This client, or all clients together, have asked as often as is allowed."""


class BudgetSpent(Busy):
    """The tokens of the day have been used up."""


class GenerationFailed(UserError):
    """The model failed in the middle of an answer."""
