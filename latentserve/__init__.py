"""The contract of latentserve, and its client.

    from latentserve.client import Client

* `client`   Client and AsyncClient: numpy arrays, files or bytes in, numpy arrays out
* `streaming` an endless stream of items in, scores out as they come (`Client.score_stream`)
* `bundle`   the manifest that export writes and service reads
* `errors`   the tree of errors, and the gRPC code of each
* `audio`    how a WAV or FLAC file becomes the samples a model was trained on
* `images`   how an encoded image becomes the pixels a model was trained on (needs Pillow)
* `tensors`  numpy arrays to protobuf tensors and back
* `records`  frozen dataclasses to JSON and back, strictly
* `v1`       stubs generated from `protos/latentserve/v1`

Nothing here imports `service`, `training` or `export`.
"""

__version__ = "0.1.0"
