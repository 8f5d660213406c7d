ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/coalesce UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
# botocore describes 400 services. Keep those that the job, its credentials and batch_job.py need.
RUN uv sync --locked --no-dev --no-install-project \
    && find /opt/coalesce/lib/python3.*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
       -not -name s3 -not -name sts -not -name sso -not -name sso-oidc -not -name signin -not -name batch -not -name logs -exec rm -r {} +
COPY src src
RUN uv sync --locked --no-dev --no-editable

FROM ${BASE}
LABEL org.opencontainers.image.title="coalesce" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/coalesce /opt/coalesce
ENV PATH=/opt/coalesce/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["coalesce"]
