#!/usr/bin/env bash
# Generates the stubs again and fails if they differ from the committed ones.
#   deploy/check_stubs.sh PYTHON
set -euo pipefail
made=$(mktemp -d)
trap 'rm -r "$made"' EXIT
"$1" -m grpc_tools.protoc -Iprotos --python_out="$made" --pyi_out="$made" --grpc_python_out="$made" \
  protos/latentserve/v1/embedding.proto
for stub in "$made"/latentserve/v1/*; do
  diff -u "latentserve/v1/$(basename "$stub")" "$stub" || {
    echo "$(basename "$stub") is not what protos/ says: run 'make protos'" >&2
    exit 1
  }
done
echo "stubs: up to date"
