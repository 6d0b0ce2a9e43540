# syntax=docker/dockerfile:1

FROM python:3.12-slim AS build
WORKDIR /src
# First what is locked, file by file as hashed: it changes less often than the gateway.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/gateway \
 && /opt/gateway/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements.lock \
 && pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
RUN pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/gateway/bin/pip install --no-cache-dir --no-index --no-deps /dist/*.whl \
 && /opt/gateway/bin/pip check

FROM python:3.12-slim
# Signing keys live in /var/lib/gateway/keys: mount a volume there, or they end with the container.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/gateway --shell /usr/sbin/nologin gateway \
 && install -d -m 0700 -o gateway -g gateway /var/lib/gateway /var/lib/gateway/keys
COPY --from=build /opt/gateway /opt/gateway
# A container's own loopback is reached by nobody. Like every variable, these win over the configuration file.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_LISTEN=0.0.0.0:8080 \
    GATEWAY_ADMIN_LISTEN=0.0.0.0:9090 \
    GATEWAY_KEYS_DIR=/var/lib/gateway/keys
USER gateway
WORKDIR /var/lib/gateway
VOLUME /var/lib/gateway/keys
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, os; port = os.environ['GATEWAY_ADMIN_LISTEN'].rpartition(':')[2]; probe = http.client.HTTPConnection('127.0.0.1', port, timeout=2); probe.request('GET', '/livez'); raise SystemExit(probe.getresponse().status != 200)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
