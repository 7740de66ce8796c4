"""The gRPC service: bundles in, embeddings, reconstructions and calibrated scores out.

Each room imports only rooms that stand below it:

    __main__    the command line
    server      starts, serves, stops
    reload      what SIGHUP does: settings, models, certificates, tokens
    config      what an operator may set; builds each room's own settings
    transport   bytes in and out: our own HTTP/2 (http2/), grpcio, TLS, the page of metrics
    api         the calls of both protocols, their health, who may make them (access/)
    models      bundles found, loaded and verified; rows decoded; scores decided on
    observing   what Prometheus reads, and the monitor of scores
    engine      rows to tensors, ONNX Runtime
    scheduling  who runs when, with whom; whose files are decoded when

Imports neither torch nor training nor export. Run it as `python -m service --models models/`.
"""
