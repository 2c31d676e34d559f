# syntax=docker/dockerfile:1
# The gateway in an image without a shell, for amd64 and arm64.
#
#   docker build -t arnoldt04/backend:1.0.0 .
#
# Another registry, or an image of one's own, can stand in for either base.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# What was downloaded and compiled before is kept between builds, and stays out of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin llamatower \
    && cp target/release/llamatower /llamatower \
    && /llamatower --version

FROM ${RUNTIME}
ARG VERSION=1.0.0
LABEL org.opencontainers.image.title="llamatower" \
      org.opencontainers.image.description="An LLM gateway in front of Ollama" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /llamatower /usr/bin/llamatower
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/llamatower/
ENV LLAMATOWER_LISTEN=0.0.0.0:3000
EXPOSE 3000
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=2s CMD ["/usr/bin/llamatower", "healthcheck"]
ENTRYPOINT ["/usr/bin/llamatower"]
