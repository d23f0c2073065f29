# The tool, its workers and Flower in one image. Build context: the checkout.
FROM python:3.13-slim

WORKDIR /app
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY migrator ./migrator
COPY workers ./workers
COPY migrations ./migrations
# The lock pins everything with hashes, the demo's and the tests' packages too; only what the tool needs is installed:
# the lock serves as constraints.
RUN sed -e 's/ \\$//' -e '/^ *--hash/d' requirements.lock > /tmp/constraints.txt \
 && pip install --no-cache-dir --constraint /tmp/constraints.txt ".[tokens,report]" \
 && rm -rf /tmp/constraints.txt build \
 && useradd --system --home-dir /nonexistent migrator

USER migrator
WORKDIR /tmp
CMD ["migrator", "--help"]
