# The coordinator, served by hypercorn. tests/packaging/test_image.py executes these lines without an engine.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/trafficlight
COPY scripts-dev/requirements.txt scripts-dev/requirements.txt
RUN /opt/trafficlight/bin/pip install --require-hashes -r scripts-dev/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY trafficlight trafficlight
RUN /opt/trafficlight/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/trafficlight/bin/pip install --no-deps --no-index wheels/trafficlight-*.whl

FROM python:3.11-slim
# What is installed for homeservers goes to the home directory, results and trafficlight.json are in /data.
RUN useradd --create-home --uid 10001 trafficlight \
 && install --directory --owner trafficlight --group trafficlight /data
COPY --from=build /opt/trafficlight /opt/trafficlight
ENV PATH=/opt/trafficlight/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /data
USER trafficlight
EXPOSE 5000
# Any answer below 500 is a sign of life: pages that ask for a token are one too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import http.client, sys; asked = http.client.HTTPConnection('127.0.0.1', 5000, timeout=4); asked.request('GET', '/status'); sys.exit(asked.getresponse().status >= 500)"]
CMD ["hypercorn", "trafficlight:create_app()", "--bind", "0.0.0.0:5000"]
