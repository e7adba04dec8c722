"""What a caller may learn of a request that fails: a status and one short sentence."""


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: the HTTP status; 4xx is the caller's fault, 5xx is ours.
        reason: one sentence for the caller. It repeats nothing that the caller sent, so that no
            page and no log can be made to show it, and of faults of ours it gives no details.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
