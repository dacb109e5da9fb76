# The exporter in a container: it brings its own kernel headers, so the host needs none. For amd64 and arm64.
#
#   docker build -t ebpf-userspace-exporter .
#   docker run --pid=host --cap-drop=ALL --cap-add=BPF --cap-add=PERFMON --cap-add=SYS_PTRACE \
#       --cap-add=DAC_READ_SEARCH --cap-add=CHOWN --cap-add=SETUID --cap-add=SETGID --cap-add=KILL \
#       --security-opt=no-new-privileges --read-only --tmpfs=/run:mode=0755 -p 8080:8080 \
#       -v "$PWD/examples/gunicorn-gc/config.yaml:/etc/ebpf-userspace-exporter/programs.yaml:ro" ebpf-userspace-exporter
#
# --pid=container:NAME watches one container. On a kernel without UPROBE_MULTI, and with an engine that lets bpf(2)
# through for nothing less (podman 4, Docker before 23), --cap-add=SYS_ADMIN too. podman build wants --format=docker for
# the health check.

FROM debian:bookworm-slim AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates python3-venv

# Only what BPF programs include, of this architecture, merged into one tree; installed, the package brings a compiler.
WORKDIR /build/packages
RUN architecture=$(dpkg --print-architecture) \
    && flavour=$(apt-cache depends "linux-headers-$architecture" | sed -n 's/^ *Depends: \(linux-headers-.*\)/\1/p') \
    && apt-get download "$flavour" "${flavour%-*}-common" \
    && folder=$(echo "$architecture" | sed 's/amd64/x86/; s/arm64/arm*/') \
    && mkdir /headers \
    && for package in *.deb; do \
        dpkg-deb --fsys-tarfile "$package" | tar --extract --directory=/headers --strip-components=4 \
            --wildcards --no-wildcards-match-slash \
            --exclude='./usr/src/*/include/drm' --exclude='./usr/src/*/include/dt-bindings' \
            --exclude='./usr/src/*/include/media' --exclude='./usr/src/*/include/sound' \
            './usr/src/*/include' "./usr/src/*/arch/$folder/include" \
            || exit; \
    done

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


FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="ebpf-userspace-exporter" \
      org.opencontainers.image.description="Prometheus metrics from probes in running programs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-bpfcc \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin --uid 943 \
        ebpf-userspace-exporter-web
COPY --from=build /headers/ /usr/src/linux-headers/
COPY --from=build /opt/ebpf-userspace-exporter/ /opt/ebpf-userspace-exporter/

# The supervisor is root: it loads BPF programs. /metrics is served by ebpf-userspace-exporter-web. The headers are
# named, as bcc would unpack those of a host that has kheaders into the root file system.
ENV PATH=/opt/ebpf-userspace-exporter/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    USERSPACE_EXPORTER_KERNEL_HEADERS=/usr/src/linux-headers \
    USERSPACE_EXPORTER_PROBE_CONFIG=/etc/ebpf-userspace-exporter/programs.yaml \
    USERSPACE_EXPORTER_WEB_USER=ebpf-userspace-exporter-web
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["/usr/bin/python3", "-I", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/-/healthy', timeout=4)"]
ENTRYPOINT ["/opt/ebpf-userspace-exporter/bin/ebpf-userspace-exporter"]
