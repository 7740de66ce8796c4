# The serving image: client, contract and service, without torch.
#   docker build -f deploy/docker/serve.Dockerfile -t latentserve .
# DEVICE=gpu keeps the CUDA build of ONNX Runtime on a base image that brings CUDA and cuDNN:
#   docker build -f deploy/docker/serve.Dockerfile -t latentserve:gpu \
#     --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 --build-arg DEVICE=gpu .
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG DEVICE=cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null || ! python3 -m venv --help >/dev/null 2>&1; then \
      apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /build
COPY requirements/serve.txt requirements/serve-cpu.txt ./
RUN python3 -m venv /opt/latentserve \
    && if [ "$DEVICE" = gpu ]; then list=serve.txt; else list=serve-cpu.txt; fi \
    && /opt/latentserve/bin/pip install --no-cache-dir --require-hashes -r "$list"

FROM ${BASE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null; then \
      apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --system --uid 10001 --no-create-home latentserve \
    && install -d -o 10001 /var/cache/latentserve
COPY --from=build /opt/latentserve /opt/latentserve
WORKDIR /app
COPY latentserve ./latentserve
COPY service ./service
ENV PATH=/opt/latentserve/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LATENTSERVE_HOST=0.0.0.0 \
    LATENTSERVE_MODELS=/models
USER 10001
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-m", "latentserve.health", "http://localhost:9464/metrics"]
ENTRYPOINT ["python", "-m", "service"]
