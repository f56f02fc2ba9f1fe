"""What a worker can raise. The text reaches the client inside Spark's own task failure, so it carries condition and SQLSTATE."""


def first_line(e: BaseException) -> str:
    r"""What another library's error says, short enough for a line of ours.

    >>> first_line(ValueError("no\nmore")), first_line(KeyError())
    ('no', 'KeyError')
    """
    return (str(e).splitlines() or [type(e).__name__])[0][:300]


class ScoringError(ValueError):
    """A row that the model cannot take, found while a batch is scored.

    >>> str(ScoringError("A row holds 3 numbers; the model takes 4."))
    '[DLSQL_SCORING] A row holds 3 numbers; the model takes 4. SQLSTATE: 42804'
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"[DLSQL_SCORING] {problem} SQLSTATE: 42804")

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.problem,)


class NetworkError(ValueError):
    """A network that cannot be built as it was asked for. On the driver it becomes an error of the statement, with the same text.

    >>> str(NetworkError("The factory gave a dict, which is no network."))
    '[DLSQL_SHAPE] The factory gave a dict, which is no network. SQLSTATE: 42804'
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"[DLSQL_SHAPE] {problem} SQLSTATE: 42804")

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.problem,)


class GroupError(ValueError):
    """Why a group has no network. It never leaves the worker: TRAIN gives NULL, and CREATE MODEL a row in ML_TRAINING_INFO."""


class TrainingError(ValueError):
    """A group that fails the whole query.

    >>> str(TrainingError("It is too large."))
    '[DLSQL_TRAINING_DATA] It is too large. SQLSTATE: 22000'
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"[DLSQL_TRAINING_DATA] {problem} SQLSTATE: 22000")

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.problem,)
