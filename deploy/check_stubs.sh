#!/usr/bin/env bash
# Generates the stubs again and fails if they differ from the committed ones.
#   deploy/check_stubs.sh PYTHON
set -euo pipefail
made=$(mktemp -d)
trap 'rm -r "$made"' EXIT
deploy/make_stubs.sh "$1" "$made"
for stub in latentserve/v1 service/api/open_inference/stubs; do
  for file in "$made/$stub"/*; do
    diff -u "$stub/$(basename "$file")" "$file" || {
      echo "$stub/$(basename "$file") is not what protos/ says: run 'make protos'" >&2
      exit 1
    }
  done
done
echo "stubs: up to date"
