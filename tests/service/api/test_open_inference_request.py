"""Parameters of a request of the Open Inference Protocol."""

from __future__ import annotations

import pytest

from latentserve.errors import InvalidInput
from service.api.open_inference.request import parameters_of
from service.api.open_inference.stubs import open_inference_grpc_pb2 as pb


def request_with(**parameters: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


def test_priority_1_is_the_highest_as_tritons_is_and_larger_goes_first_in_the_queue() -> None:
    by_urgency = [parameters_of(request_with(priority=priority)).priority for priority in (1, 2, 3)]
    assert by_urgency == [1, 0, -1]
    assert parameters_of(request_with(priority=0)).priority == parameters_of(request_with()).priority == 0
    for priority in (-1, 4):
        with pytest.raises(InvalidInput, match=f"priority'.: got {priority}, expected 0 to 3"):
            parameters_of(request_with(priority=priority))
