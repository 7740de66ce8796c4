"""Who runs when, and with whom: admission, queue, batch. Knows neither gRPC nor ONNX Runtime nor Prometheus."""
