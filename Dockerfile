# The Dagster side: one image for the web server, the daemon and the runs. The service has an image of its own, see docs/containers.md.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.lock /tmp/requirements.lock
RUN /opt/venv/bin/pip install --require-hashes --requirement /tmp/requirements.lock
WORKDIR /opt/mlops-assets
COPY pyproject.toml README.md ./
COPY mlops_assets mlops_assets
COPY bentos bentos
# editable, because models are declared in files of the package and the Bento is built from the folder beside it
RUN /opt/venv/bin/pip install --no-deps --no-build-isolation --editable .

FROM python:3.11-slim
# OpenMP, which scikit-learn's trees run on
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 mlops && mkdir -p /opt/mlops-assets && chown mlops /opt/mlops-assets
COPY --from=build /opt/venv /opt/venv
COPY --from=build --chown=mlops /opt/mlops-assets /opt/mlops-assets
WORKDIR /opt/mlops-assets
COPY --chown=mlops dagster.yaml workspace.yaml ./
RUN install --directory --owner=mlops .mlops
ENV PATH=/opt/venv/bin:$PATH \
    DAGSTER_HOME=/opt/mlops-assets \
    BENTOML_DO_NOT_TRACK=True \
    MLFLOW_DISABLE_TELEMETRY=true \
    PYTHONUNBUFFERED=1
USER mlops
VOLUME /opt/mlops-assets/.mlops
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/server_info', timeout=5)"]
CMD ["dagster-webserver", "--host", "0.0.0.0", "--port", "3000", "--workspace", "workspace.yaml"]
