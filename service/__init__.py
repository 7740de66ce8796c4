"""The gRPC service: bundles in, embeddings, reconstructions and calibrated scores out.

    config      what an operator may set           repository  bundles found, proven, opened
    door        room for rows, kept before any work turns       whose files are decoded when
    decoding    requests to rows                    engine      rows to tensors, ONNX Runtime
    waiting     the line in which rows wait         batching    who runs when, with whom
    scoring     scores to p-values and decisions    inference   what every protocol asks of models
    servicer    our calls, without a transport      tls         who we are, who our clients must be
    open_inference  the Open Inference Protocol's calls (open_request, open_tensors, stubs)
    transport   what every transport shares         score_stream  many requests over one call, in order
    transports  those there are                     metrics     everything Prometheus sees
    grpcio_server  calls on grpcio
    server      start, serve, drain                 health      a container's health check
    pace        how long a batch takes, learned     http2       calls on our own HTTP/2, a package with a map

Imports neither torch nor training nor export. Run it as `python -m service --models models/`.
"""
