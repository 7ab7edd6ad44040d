# syntax=docker/dockerfile:1.17
# Trivium on Ray's own image. Two targets:
#
#   docker build --target cpu -t trivium:0.1.0-cpu .
#   docker build --target gpu -t trivium:0.1.0-gpu .
#   docker build --target sbom --output type=local,dest=. .     # sbom-cpu.cdx.json, sbom-gpu.cdx.json
#
# The two small models that need no hub come as Python packages of the lock; what is served of them
# is made here, once, and not by every pod. Others are not baked in.
ARG RAY=2.60.0-py311-cpu

# --- what is installed, built where nothing of it stays ------------------------------------------
FROM rayproject/ray:${RAY} AS packages
USER root
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_INDEX_STRATEGY=unsafe-best-match
RUN uv venv --python /home/ray/anaconda3/bin/python /opt/venv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements

# The lock has the tools of development too. Resolved again without them and under the lock as
# constraints, every pin is the lock's, and so is every hash that is checked.
FROM packages AS packages-cpu
RUN --mount=type=cache,target=/root/.cache/uv \
    export UV_INDEX=https://download.pytorch.org/whl/cpu \
    && uv pip compile -q pyproject.toml --extra cpu --python-version 3.11 --only-binary :all: \
         --overrides requirements/overrides.txt --overrides requirements/overrides-cpu.txt \
         --constraints requirements/cpu.lock --no-annotate --no-header -o runtime.txt \
    && uv pip install -q -p /opt/venv --no-deps --only-binary :all: \
         -r runtime.txt -c requirements/cpu.lock
COPY serve_app serve_app
COPY configs configs
RUN uv pip install -q -p /opt/venv --no-deps . \
    && TRIVIUM_STATE_DIR=/opt/trivium /opt/venv/bin/trivium prepare \
    && uvx --from cyclonedx-bom==7.2.1 cyclonedx-py environment /opt/venv -o /opt/venv/sbom.cdx.json

FROM packages AS packages-gpu
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip compile -q pyproject.toml --extra gpu --python-version 3.11 --only-binary :all: \
         --overrides requirements/overrides.txt \
         --constraints requirements/gpu.lock --no-annotate --no-header -o runtime.txt \
    && uv pip install -q -p /opt/venv --no-deps --only-binary :all: \
         -r runtime.txt -c requirements/gpu.lock
COPY serve_app serve_app
COPY configs configs
RUN uv pip install -q -p /opt/venv --no-deps . \
    && TRIVIUM_STATE_DIR=/opt/trivium /opt/venv/bin/trivium prepare \
    && uvx --from cyclonedx-bom==7.2.1 cyclonedx-py environment /opt/venv -o /opt/venv/sbom.cdx.json

FROM scratch AS sbom
COPY --from=packages-cpu /opt/venv/sbom.cdx.json /sbom-cpu.cdx.json
COPY --from=packages-gpu /opt/venv/sbom.cdx.json /sbom-gpu.cdx.json

# --- what is shipped ----------------------------------------------------------------------------
FROM rayproject/ray:${RAY} AS base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trivium" \
      org.opencontainers.image.description="One OpenAI-compatible endpoint, three roads" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TRIVIUM_SHIPPED_MODELS=/opt/trivium/models \
    RAY_USAGE_STATS_ENABLED=0
USER root
RUN install -d -o ray -g users /opt/trivium /var/lib/trivium
WORKDIR /opt/trivium
COPY configs configs
# Where there is no Kubernetes to ask; open, as there is no key yet, to this machine alone:
#   docker run -e TRIVIUM_GATEWAY__OPEN=true -p 127.0.0.1:8000:8000 trivium:0.1.0-cpu
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m \
  CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/readyz').raise_for_status()"]
CMD ["env", "TRIVIUM_GATEWAY__HOST=0.0.0.0", "trivium", "up"]

FROM base AS gpu
# Triton compiles the launchers of its kernels when a model is loaded: it needs a C compiler, no more.
# CUDA's libraries come with the wheels, the driver with the node.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages-gpu /opt/venv /opt/venv
COPY --from=packages-gpu /opt/trivium/models models
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ray

FROM base AS cpu
# vLLM links with it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=packages-cpu /opt/trivium/models models
USER ray
