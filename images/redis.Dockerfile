# A shard's server: Redis 7.0 of Debian 12, the engine, and the program that the pod's probes run.
# Built by tools/images, whose context has the built files. Pods mount /data and /etc/multiactive; nothing else is written.
FROM docker.io/library/debian:bookworm-slim

RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /etc/redis /var/lib/redis \
 && groupadd --gid 10001 multiactive \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin multiactive \
 && install -d -o 10001 -g 10001 /data

COPY libmas_engine.so /usr/lib/multiactive/libmas_engine.so
COPY mas-probe /usr/bin/mas-probe

USER 10001:10001
WORKDIR /data
EXPOSE 6379
CMD ["redis-server", "/etc/multiactive/redis.conf"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Multi-Active Store: Redis with the engine" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://multiactive.dev" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
