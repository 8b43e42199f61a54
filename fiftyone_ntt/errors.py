"""Errors a user can act on: each message says what was expected, what came, and what to do."""


class NttError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(NttError, ValueError):
    """A value is of the right kind but cannot be used (empty mask, unknown class, wrong shape)."""


class WrongTypeError(NttError, TypeError):
    """A value is of the wrong kind (a field that holds no detections, a bank that is no bank)."""


class BadReferenceError(InputError):
    """A reference sample or label cannot serve as a reference; names the sample and the label."""


class MissingWeightsError(NttError, ValueError):
    """Model weights are not on this machine; names the file, the place and the way out."""


class WeightsMismatchError(InputError):
    """A weights file, or the weights a memory bank was made with, are not the expected ones."""


class PresetMismatchError(InputError):
    """A memory bank is used with another preset than the one that built it."""


class LeaseLostError(NttError):
    """A worker took so long that another one may have its samples: it must not write them any more."""


class RunCancelledError(NttError):
    """Someone has cancelled the run: a worker must write nothing more."""


class DatabaseGoneError(NttError):
    """The database has not answered for minutes; what a run has saved is there, and it can be resumed."""
