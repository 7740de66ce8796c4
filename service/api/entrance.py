"""Both transports ask here whether a call may enter: at its headers, before anything of its body is read."""

from __future__ import annotations

from typing import Any

from latentserve.errors import LatentserveError
from service.api.access.callers import Access
from service.api.calls import Answer, Call, StreamCall


def entered(access: Access | None, path: str, authorization: str | None, call: Any) -> Any:
    """What answers this call for its caller; or the `Answer` that rejects it.

    Args:
        access: the tokens; None: everybody may.
        path: of the call.
        authorization: the header, if there is one.
        call: what would answer; None for a method that there is not. A rejection is counted as its answer.
    """
    if access is None:
        return call
    ours = isinstance(call, (Call, StreamCall))
    try:
        caller = access.admit(path, authorization)
    except LatentserveError as error:
        if ours:
            call.unread(error.code.name)
        return Answer(b"", error.code, str(error))
    return call.of(caller) if ours else call
