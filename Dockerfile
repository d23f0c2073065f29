# The tool, its workers and Flower in one image. Build context: the checkout. Nothing secret is in it, and nothing is
# asked of it at build time but the package registry: docker build --tag pgvector-migrator .

FROM python:3.13.9-slim-bookworm AS build

WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /app
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY migrator ./migrator
COPY workers ./workers
COPY migrations ./migrations
# The lock pins everything with hashes, the demo's and the tests' packages too; only what the tool needs is installed:
# the lock serves as constraints.
RUN sed -e 's/ \\$//' -e '/^ *--hash/d' requirements.lock > constraints.txt \
 && /app/bin/pip install --constraint constraints.txt ".[tokens,report]" \
 && /app/bin/pip uninstall --yes pip

FROM python:3.13.9-slim-bookworm

# A number, so that Kubernetes can see that it is not root.
RUN useradd --system --uid 10001 --home-dir /nonexistent migrator \
 && install --directory --owner=10001 --mode=700 /var/lib/flower
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

USER 10001
WORKDIR /tmp
# For a worker, which is what most of them are; docker-compose.yml says how to ask the others.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 CMD ["migrator", "alive"]
CMD ["migrator", "--help"]
