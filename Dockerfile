# syntax=docker/dockerfile:1

# One that is named by its digest is the same one at every build: docs/operations/one-machine.md, "Docker".
ARG PYTHON=python:3.12-slim-trixie

FROM ${PYTHON} AS build
WORKDIR /src
# First what is locked, file by file as hashed: it changes less often than the gateway.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/gateway \
 && pip --python /opt/gateway/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r requirements.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
RUN /opt/build/bin/pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
 && pip --python /opt/gateway/bin/python install --no-cache-dir --no-index --no-deps /dist/*.whl \
 && pip --python /opt/gateway/bin/python check \
 && install -d -m 0700 -o 10001 -g 10001 /var/lib/gateway /var/lib/gateway/keys

FROM ${PYTHON}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="streaming-gateway" \
      org.opencontainers.image.description="An OpenAI-compatible streaming gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
# Nothing is run here: this stage is files alone.
COPY --from=build /opt/gateway /opt/gateway
# Signing keys live in /var/lib/gateway/keys, the only place that is written to: mount a volume there, or they end
# with the container.
COPY --from=build --chown=10001:10001 /var/lib/gateway /var/lib/gateway
# A container's own loopback is reached by nobody. Like every variable, these win over the configuration file.
ENV PATH=/opt/gateway/bin:$PATH \
    HOME=/var/lib/gateway \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_LISTEN=0.0.0.0:8080 \
    GATEWAY_ADMIN_LISTEN=0.0.0.0:9090 \
    GATEWAY_KEYS_DIR=/var/lib/gateway/keys
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /var/lib/gateway
VOLUME /var/lib/gateway/keys
EXPOSE 8080 9090
# What serves drains after it, for drain_notice_seconds and drain_seconds: give it that time (docker run --stop-timeout).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 CMD ["gateway", "probe"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
