# CPU:   docker build -t qtts .
# CUDA:  docker build -t qtts:cuda --build-arg TORCH_BUILD=cuda .
# Run:   docker run -p 127.0.0.1:8000:8000 -v qtts-data:/data qtts        (CUDA: add --gpus all)
#
# Extras (redis, objects, otel, provenance; ray for deploy/ray):   --build-arg EXTRAS=redis,objects
#
# torch is found as `make` finds it (scripts/install.py): the CPU variant takes a CPU build where one can be had, else
# the default index's, larger by 4 GB. PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS name other places.
# CUDA's libraries come with torch's wheels; the host needs NVIDIA's driver and container toolkit.
#
# The base image is named by tag, for a digest is of one registry and day. Pin it where you build:
#   --build-arg PYTHON_IMAGE=python@sha256:...    (docker buildx imagetools inspect python:3.12-slim)
#
# Licences: the wheel of PyAV bundles FFmpeg with libx264 and libx265 (GPL), and that of lameenc LAME (LGPL). The
# server calls neither video encoder, but who passes this image on passes them on, under their terms.
#
# Linted with hadolint; no Docker engine was at hand to build it.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_BUILD=cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
WORKDIR /src
# torch has a layer of its own, which changes with the pins only.
COPY constraints.txt constraints-torch.txt constraints-uv.txt ./
COPY scripts/install.py scripts/
RUN python scripts/install.py /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY qtts_openai qtts_openai
ARG EXTRAS=
RUN python scripts/install.py /opt/venv ".${EXTRAS:+[$EXTRAS]}" \
    && /opt/venv/bin/python -m pip uninstall --yes uv pip

FROM ${PYTHON_IMAGE}
ARG TORCH_BUILD=cpu
# triton calls a C compiler when it first loads a kernel.
# hadolint ignore=DL3008
RUN if [ "$TORCH_BUILD" = cuda ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /opt/venv /opt/venv
RUN useradd --uid 10001 --no-create-home --home-dir /data qtts \
    && install -d -o qtts -g qtts /data
# /data holds all that the server writes: downloaded checkpoints and its own cache.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/data \
    HF_HOME=/data/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Alive, not ready: a server whose engine restarts is not to be killed. A first start may download several GB before
# it listens.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/live', timeout=4)"]
ENTRYPOINT ["qtts"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
