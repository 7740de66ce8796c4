#!/usr/bin/env bash
# Generates the stubs from protos/: the contract's into the package that clients install, the Open Inference Protocol's,
# of which the service alone needs the messages, beside the service.
#   deploy/make_stubs.sh PYTHON FOLDER
set -euo pipefail
mkdir -p "$2/service/api/open_inference/stubs"
"$1" -m grpc_tools.protoc -Iprotos --python_out="$2" --pyi_out="$2" --grpc_python_out="$2" protos/latentserve/v1/embedding.proto
"$1" -m grpc_tools.protoc -Iprotos/inference --python_out="$2/service/api/open_inference/stubs" --pyi_out="$2/service/api/open_inference/stubs" \
  protos/inference/open_inference_grpc.proto
