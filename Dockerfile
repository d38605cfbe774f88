# The coordinator. tests/packaging/test_image.py executes these lines without an engine.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/trafficlight
COPY scripts-dev/requirements.txt scripts-dev/requirements.txt
RUN /opt/trafficlight/bin/pip install --require-hashes -r scripts-dev/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY trafficlight trafficlight
RUN /opt/trafficlight/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/trafficlight/bin/pip install --no-deps --no-index wheels/matrix_trafficlight-*.whl

# By tag: pin the digest (python:3.11-slim@sha256:...) where an image has to be reproducible.
FROM python:3.11-slim
# What is installed for homeservers goes to the home directory, results and trafficlight.json are in /data.
RUN useradd --create-home --uid 10001 trafficlight \
 && install --directory --owner trafficlight --group trafficlight /data
COPY --from=build /opt/trafficlight /opt/trafficlight
ENV PATH=/opt/trafficlight/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /data
USER trafficlight
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import http.client, sys; asked = http.client.HTTPConnection('127.0.0.1', 5000, timeout=4); asked.request('GET', '/healthz'); sys.exit(asked.getresponse().status != 200)"]
CMD ["trafficlight", "serve", "--host", "0.0.0.0", "--port", "5000"]
