from __future__ import annotations

import grpc

from latentserve import errors
from latentserve.errors import BY_CODE, Code, LatentserveError


def every_error() -> list[type[LatentserveError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LatentserveError)]


def test_every_error_stands_in_the_drawing_with_its_code() -> None:
    assert errors.__doc__ is not None
    for kind in every_error():
        assert kind.__name__ in errors.__doc__
        if kind is not LatentserveError:
            (line,) = (line for line in errors.__doc__.splitlines() if f" {kind.__name__} " in line)
            assert kind.code.name in line


def test_every_code_is_grpcs_and_is_raised_by_a_client() -> None:
    numbers = {status.value[0]: status.name for status in grpc.StatusCode}
    for code in Code:
        assert numbers[code] == code.name
        assert BY_CODE[code].code == code
