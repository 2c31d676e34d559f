# syntax=docker/dockerfile:1
# The gateway in an image without a shell, for amd64 and arm64.
#
#   docker build -t arnoldt04/backend:1.0.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 -t arnoldt04/backend:1.0.0 --push .
#
# With --build-arg COMMIT=$(git rev-parse --short=12 HEAD) the program names the commit it is built
# from: the repository itself is not sent to the builder.
#
# Another registry, or an image of one's own, can stand in for either base.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

FROM --platform=$BUILDPLATFORM ${BUILDER} AS build
ARG BUILDARCH
ARG TARGETARCH
# For another architecture than its own the builder cross-compiles: an emulated compiler takes hours.
# hadolint ignore=DL3008
RUN if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        case "$TARGETARCH" in amd64) cpu=x86-64 ;; arm64) cpu=aarch64 ;; esac \
        && apt-get update \
        && apt-get install -y --no-install-recommends "gcc-$cpu-linux-gnu" "libc6-dev-$TARGETARCH-cross" \
        && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /src
COPY . .
ARG COMMIT=
# What was downloaded and compiled before is kept between builds, and stays out of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    case "$TARGETARCH" in amd64) cpu=x86_64 ;; arm64) cpu=aarch64 ;; *) exit 1 ;; esac \
    && if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        rustup target add "$cpu-unknown-linux-gnu" \
        && export "CC_${cpu}_unknown_linux_gnu=$cpu-linux-gnu-gcc" \
            CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
            CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc; \
    fi \
    && LLAMATOWER_COMMIT="$COMMIT" cargo build --locked --release --bin llamatower --target "$cpu-unknown-linux-gnu" \
    && cp "target/$cpu-unknown-linux-gnu/release/llamatower" /llamatower \
    && { [ "$TARGETARCH" != "$BUILDARCH" ] || /llamatower --version; }

# What the gateway keeps over a restart; it belongs to the user of the gateway.
RUN mkdir /state

FROM ${RUNTIME}
# The version of Cargo.toml; a test compares them.
ARG VERSION=1.0.0
ARG COMMIT=
LABEL org.opencontainers.image.title="llamatower" \
      org.opencontainers.image.description="An LLM gateway in front of Ollama" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /llamatower /usr/bin/llamatower
COPY LICENSE-MIT LICENSE-APACHE deploy/THIRD-PARTY.txt /usr/share/doc/llamatower/
COPY --from=build --chown=65532:65532 --chmod=700 /state /var/lib/llamatower
ENV LLAMATOWER_LISTEN=0.0.0.0:3000
# Mount a volume there to keep usage, token budgets and cordons when the container is replaced.
ENV LLAMATOWER_STATE_DIR=/var/lib/llamatower
EXPOSE 3000
USER 65532:65532
# It asks the first address of LLAMATOWER_LISTEN.
HEALTHCHECK --interval=10s --timeout=3s --start-period=2s CMD ["/usr/bin/llamatower", "healthcheck"]
ENTRYPOINT ["/usr/bin/llamatower"]
