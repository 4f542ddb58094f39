# The operator.
# Built by tools/images, whose context has the built file. Nothing in it is written.
FROM docker.io/library/debian:bookworm-slim

RUN groupadd --gid 10001 multiactive \
 && useradd --uid 10001 --gid 10001 --home-dir / --no-create-home --shell /usr/sbin/nologin multiactive

COPY operator /usr/bin/operator

USER 10001:10001
CMD ["operator", "run", "--log-format", "json"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Multi-Active Store: operator" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://multiactive.dev" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
