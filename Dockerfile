# CPU:   docker build -t qtts --build-arg TORCH_INDEX=<PyTorch's CPU wheel index> .
# CUDA:  docker build -t qtts:cuda --build-arg TORCH_BUILD=cuda .
# Run:   docker run -p 127.0.0.1:8000:8000 -v qtts-data:/data qtts        (CUDA: add --gpus all)
#
# On x86-64 pip's default torch is a CUDA build: without TORCH_INDEX the CPU variant stops and says so.
# CUDA's libraries come with torch's wheels; the host needs NVIDIA's driver and container toolkit.
#
# Licences: the wheel of PyAV bundles FFmpeg with libx264 and libx265 (GPL), and that of lameenc LAME (LGPL). The
# server calls neither video encoder, but who passes this image on passes them on, under their terms.
#
# Linted with hadolint; no Docker engine was at hand to build it.
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_BUILD=cpu
ARG TORCH_INDEX=
ARG TORCH_FIND_LINKS=
ENV PIP_NO_CACHE_DIR=1
WORKDIR /src
# torch has a layer of its own, which changes with the pins only.
COPY constraints.txt constraints-torch.txt ./
COPY scripts/install_torch.py scripts/
RUN python scripts/install_torch.py /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY qtts_openai qtts_openai
RUN /opt/venv/bin/python -m pip install -c constraints.txt . \
    && /opt/venv/bin/python -m pip uninstall --yes pip

FROM python:${PYTHON_VERSION}-slim
COPY --from=build /opt/venv /opt/venv
RUN useradd --uid 10001 --no-create-home --home-dir /data qtts \
    && install -d -o qtts -g qtts /data
# /data holds all that the server writes: downloaded checkpoints and its own cache.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    HF_HOME=/data/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# A first start may download several GB before it listens.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["qtts"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
