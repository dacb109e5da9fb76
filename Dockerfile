# The exporter in a container: it brings its own kernel headers, so the host needs none.
#
#   docker build -t ebpf-userspace-exporter .
#   docker run --pid=host --cap-drop=ALL --cap-add=SYS_ADMIN --cap-add=BPF --cap-add=PERFMON --cap-add=SYS_PTRACE \
#       --cap-add=DAC_READ_SEARCH --cap-add=CHOWN --cap-add=SETUID --cap-add=SETGID --cap-add=KILL \
#       --cap-add=SYS_RESOURCE --read-only --tmpfs /run:mode=0755 -p 8080:8080 \
#       -v "$PWD/examples/gunicorn-gc/config.yaml:/etc/ebpf-userspace-exporter/programs.yaml:ro" ebpf-userspace-exporter

FROM debian:bookworm-slim AS base
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*


FROM base AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates python3-venv \
        "linux-headers-$(dpkg --print-architecture)" \
    && rm -rf /var/lib/apt/lists/*

# Only what BPF programs include; the packages' compilers and makefiles stay behind.
RUN mkdir /headers \
    && cd /usr/src \
    && find . -path './linux-headers-*' \( -type f -o -type l \) \( -path '*/include/*' -o -name '.config' \) -print0 \
        | tar --create --null --files-from=- --file=- \
        | tar --extract --directory=/headers

WORKDIR /build
COPY requirements.lock requirements-build.lock ./
# The venv that is shipped has no pip; the one that builds is left behind.
RUN /usr/bin/python3 -m venv /build/venv \
    && /usr/bin/python3 -m venv --without-pip /opt/ebpf-userspace-exporter \
    && /build/venv/bin/pip install --quiet --only-binary :all: --require-hashes -r requirements-build.lock \
    && /build/venv/bin/pip --python /opt/ebpf-userspace-exporter/bin/python install --quiet --no-cache-dir \
        --only-binary :all: --require-hashes -r requirements.lock

# src/ holds links to the four folders, so they must lie where they lie in the repository.
COPY pyproject.toml README.md LICENSE ./
COPY src/ src/
COPY config/ config/
COPY supervisor/ supervisor/
COPY web/ web/
COPY worker/ worker/
RUN /build/venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /build/dist . \
    && /build/venv/bin/pip --python /opt/ebpf-userspace-exporter/bin/python install --quiet --no-deps --no-index \
        /build/dist/*.whl \
    && ln -s /usr/lib/python3/dist-packages/bcc /opt/ebpf-userspace-exporter/lib/python3.11/site-packages/bcc


FROM base
LABEL org.opencontainers.image.title="ebpf-userspace-exporter" \
      org.opencontainers.image.description="Prometheus metrics from probes in running programs" \
      org.opencontainers.image.licenses="MIT"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-bpfcc \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin --uid 943 \
        ebpf-userspace-exporter-web
COPY --from=build /headers/ /usr/src/
COPY --from=build /opt/ebpf-userspace-exporter/ /opt/ebpf-userspace-exporter/

# The supervisor is root: it loads BPF programs. /metrics is served by ebpf-userspace-exporter-web.
ENV PATH=/opt/ebpf-userspace-exporter/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    USERSPACE_EXPORTER_PROBE_CONFIG=/etc/ebpf-userspace-exporter/programs.yaml \
    USERSPACE_EXPORTER_WEB_USER=ebpf-userspace-exporter-web
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["/usr/bin/python3", "-I", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/-/healthy', timeout=4)"]
ENTRYPOINT ["/opt/ebpf-userspace-exporter/bin/ebpf-userspace-exporter"]
