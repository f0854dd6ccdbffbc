# The image of worker, migrate step and command line. CUDA comes with the torch wheels; without a GPU it runs on the CPU.
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/auditor
# The heavy wheels first: they change seldom, the code often.
COPY requirements/constraints.txt requirements/constraints.txt
RUN /opt/auditor/bin/pip install -c requirements/constraints.txt torch torchvision
COPY pyproject.toml README.md ./
COPY auditor auditor
COPY remediation remediation
COPY workers workers
COPY migrations migrations
RUN /opt/auditor/bin/pip install -c requirements/constraints.txt .

FROM python:3.11-slim-bookworm
COPY --from=build /opt/auditor /opt/auditor
RUN useradd --uid 10001 --user-group --home-dir /var/lib/auditor --create-home --shell /usr/sbin/nologin auditor \
    && chmod 0700 /var/lib/auditor
ENV PATH=/opt/auditor/bin:$PATH \
    HOME=/var/lib/auditor \
    AUDITOR_HOME=/var/lib/auditor \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /work
VOLUME /var/lib/auditor
ENTRYPOINT ["auditor"]
CMD ["--help"]
