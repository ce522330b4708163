# muflow for processors alone, as a user without rights; at run time it needs no network:
#   docker build -t muflow .
#   docker run --rm --network none -v "$PWD/photos:/data:ro" muflow scan /data
FROM python:3.12-slim-bookworm AS build
RUN pip install --no-cache-dir "uv==0.9.7"
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY muflow_cli muflow_cli
COPY weights weights
# The libraries for GPUs are four fifths of the usual installation.
RUN uv venv /opt/muflow && uv pip install --python /opt/muflow --torch-backend cpu --no-cache ".[heif,c2pa]"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/muflow /opt/muflow
RUN useradd --uid 10001 --create-home muflow
ENV PATH="/opt/muflow/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["muflow"]
CMD ["--help"]
