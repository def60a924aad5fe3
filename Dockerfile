# varestorer in a container.
#   CPU:   docker build -t varestorer .
#   CUDA:  docker build -t varestorer:cuda --build-arg TORCH=cu126 .   (run with --gpus all)
ARG PYTHON=3.12
# Any image with Python and pip, such as one of your own registry; with TORCH= (empty) its own PyTorch is used.
ARG BASE=python:${PYTHON}-slim
FROM ${BASE}

# Build of PyTorch: cpu, cu126, cu128, rocm6.3 ... CPU wheels are a tenth of the size of those for CUDA.
ARG TORCH=cpu
# Extras of varestorer, separated by commas.
ARG EXTRAS=vfx

WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE MANIFEST.in ./
COPY models models
COPY varestorer_cli varestorer_cli
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache ${TORCH:+--torch-backend "${TORCH}"} ".[${EXTRAS}]" \
    && rm -rf build

# Installed models and caches live in /models: mount a volume there to keep them.
RUN useradd --create-home user && mkdir /models /work && chown user /models /work
ENV VARESTORER_WEIGHTS=/models/weights XDG_CACHE_HOME=/models/cache HF_HOME=/models/huggingface
USER user
WORKDIR /work
ENTRYPOINT ["varestorer"]
CMD ["--help"]
