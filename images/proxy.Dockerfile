# A region's front: the proxy. Pods mount /etc/multiactive and its secrets.
# Built by tools/images, whose context has the built file. Nothing in it is written.
FROM docker.io/library/debian:bookworm-slim

RUN groupadd --gid 10001 multiactive \
 && useradd --uid 10001 --gid 10001 --home-dir / --no-create-home --shell /usr/sbin/nologin multiactive

COPY mas-proxy /usr/bin/mas-proxy

USER 10001:10001
EXPOSE 6379 8080
CMD ["mas-proxy", "--config", "/etc/multiactive/proxy.json", "--log-format", "json"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Multi-Active Store: proxy" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://multiactive.dev" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
