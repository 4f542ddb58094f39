# A node of a region's log: RabbitMQ 3.10 of Debian 12.
# Pods mount /data, /tmp, HOME (/var/lib/rabbitmq) and /etc/multiactive; nothing else is written.
FROM docker.io/library/debian:bookworm-slim

# The package's user gets our number before the package would choose one. Debian makes an Erlang cookie: a secret that all
# copies of an image have is none, so it goes.
RUN groupadd --gid 10001 rabbitmq \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/rabbitmq --no-create-home --shell /usr/sbin/nologin rabbitmq \
 && apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/rabbitmq \
 && install -d -o 10001 -g 10001 /data /var/lib/rabbitmq

# Debian's commands in /usr/sbin write their output to /var/log; these are RabbitMQ's own.
ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/var/lib/rabbitmq \
    LANG=C.UTF-8 \
    RABBITMQ_MNESIA_BASE=/data \
    RABBITMQ_LOGS=-

USER 10001:10001
WORKDIR /var/lib/rabbitmq
EXPOSE 4369 5672 15672 15692 25672
CMD ["rabbitmq-server"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Multi-Active Store: RabbitMQ" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0 AND MPL-2.0" \
      org.opencontainers.image.url="https://multiactive.dev" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
