# The training image: everything. docker-compose.yml uses it to make a first bundle.
#   docker build -f deploy/docker/train.Dockerfile -t latentserve-train .
FROM python:3.12-slim-bookworm
WORKDIR /app
COPY requirements/train.txt ./
RUN pip install --no-cache-dir --require-hashes -r train.txt
COPY latentserve ./latentserve
COPY training ./training
COPY export ./export
RUN useradd --system --uid 10001 --create-home latentserve && mkdir /models && chown 10001 /models
ENV PYTHONUNBUFFERED=1
USER 10001
# Trains on digits and exports, unless the volume holds a bundle already.
CMD ["sh", "-euc", "ls /models/*/*/bundle.json 2>/dev/null || { python -m training vae --data digits --epochs 100 --batch-rows 64 --run /tmp/run && python -m export /tmp/run --to /models; }"]
