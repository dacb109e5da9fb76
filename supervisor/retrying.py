"""When to try again what did not work."""

MAX_RETRY_SECONDS = 60.0
FIRST_RESTART_SECONDS = 0.1
FIRST_RETRY_SECONDS = 1.0
_MAX_DOUBLINGS = 16


def restart_seconds(attempts: int) -> float:
    """Return how long to wait after a worker has died so often in a row."""
    return _backoff(FIRST_RESTART_SECONDS, attempts)


def retry_seconds(attempts: int) -> float:
    """Return how long to wait after so many attempts to attach that have failed."""
    return _backoff(FIRST_RETRY_SECONDS, attempts)


def recheck_seconds(age: float, rescan_interval: float) -> float:
    """Return when to see whether a target has what it lacks: often while it is young, as it maps most things then."""
    return min(rescan_interval, max(FIRST_RETRY_SECONDS, age))


def _backoff(first: float, attempts: int) -> float:
    # The exponent has a bound: after some hours 2.0 ** attempts would be more than a float holds, which is an error.
    return min(MAX_RETRY_SECONDS, first * 2.0 ** min(max(0, attempts - 1), _MAX_DOUBLINGS))
