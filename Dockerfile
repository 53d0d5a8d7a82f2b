# The chat in a container: `docker build -t medical-qa .` for a CPU, `docker build --build-arg DEVICE=cuda -t medical-qa .` for an NVIDIA card.
#
#   docker run --read-only --tmpfs /tmp -v medical-qa-cache:/cache -p 7860:7860 [--gpus all] medical-qa
#
# It runs as a user without rights and writes into /cache and /tmp alone. Settings are environment variables: see app/settings.py.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS packages
ARG DEVICE=cpu
WORKDIR /app
COPY requirements.txt requirements.lock constraints.txt ./
# All but PyTorch is checked against its hashes. PyTorch's wheels for CPUs have an index of their own; those of the package index bring CUDA with them. The GPU kernels are compiled at
# run time, which takes a C compiler, so that goes into the image for cuda below.
RUN python -m venv /venv \
    && case "${DEVICE}" in \
         cpu) index="https://download.pytorch.org/whl/cpu" ;; \
         cuda) index="" ;; \
         *) echo "DEVICE is ${DEVICE} and may be cpu or cuda." >&2; exit 1 ;; \
       esac \
    && install="/venv/bin/pip install --no-cache-dir --disable-pip-version-check" \
    && ${install} --no-deps -r requirements.lock \
    && PIP_EXTRA_INDEX_URL="${index}" ${install} -r requirements.txt -c constraints.txt

FROM python:${PYTHON}-slim
ARG DEVICE=cpu
# Debian's versions move with the base image, which is where they are chosen.
# hadolint ignore=DL3008
RUN if [ "${DEVICE}" = cuda ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --uid 10001 --create-home --home-dir /cache medical-qa
COPY --from=packages /venv /venv
WORKDIR /app
COPY app ./app
COPY assets ./assets
ENV PATH=/venv/bin:$PATH \
    HF_HOME=/cache/huggingface \
    TRITON_CACHE_DIR=/cache/triton \
    FEEDBACK_FOLDER=/cache/feedback \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    APP_HOST=0.0.0.0 \
    LOG_FORMAT=json
USER 10001
VOLUME /cache
EXPOSE 7860
STOPSIGNAL SIGTERM
# Up, not ready: a container whose model is still loading must not be ended. /readyz says whether it answers.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
CMD ["python", "-m", "app"]
