# One image for both roles: `docker run evercurrent router …`, `docker run evercurrent worker …`.
#
#   docker build -t evercurrent:0.1.0 --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# A tag can be moved to other content; a digest cannot. To pin the base by digest, look it up once and pass it:
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm    # prints Digest: sha256:…
#   docker build --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:… .
#
# It needs no write but to /data (an embedded store) and /tmp, so the root may be read-only, and no user but the number
# below. A model of one's own: FROM this image, COPY it to /models, and start workers with `--search-path /models`.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# PyTorch's own index, because the wheels of the usual one bring gigabytes of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Without pip of its own: what installs into it stays in this stage.
RUN python -m venv --without-pip /opt/evercurrent
COPY constraints.txt ./
# By itself and first: it is the largest and changes least. What it needs comes below, from the usual index.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/evercurrent/bin/python install \
        --index-url "${TORCH_INDEX}" --no-deps "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md ./
COPY evercurrent evercurrent
COPY persistence persistence
COPY router router
COPY worker worker
COPY bench bench
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --no-deps --wheel-dir /wheels . \
    && python -m pip --python /opt/evercurrent/bin/python install \
        --constraint constraints.txt "$(ls /wheels/evercurrent-*.whl)[server]"

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="evercurrent" \
      org.opencontainers.image.description="Serves models that learn from every event: router and worker" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The base's own pip and setuptools go: nothing is installed into what runs.
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && groupadd --gid 65532 evercurrent \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin evercurrent \
    && install --directory --owner=65532 --group=65532 --mode=0770 /data \
    && install --directory /models
COPY --from=build /opt/evercurrent /opt/evercurrent
ENV PATH=/opt/evercurrent/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# By number: Kubernetes cannot see that a name is not root's (runAsNonRoot).
USER 65532:65532
# Where the default store, sqlite:evercurrent.db, may be written.
WORKDIR /data
# router, worker, metrics
EXPOSE 7600 7601 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["evercurrent"]
CMD ["--help"]
