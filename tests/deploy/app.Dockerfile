# An application to probe, with gunicorn and the Python of the exporter's image, to be quick to make; but that Python is a
# file of its own, at a place where the exporter's container has none.
FROM registry.example/ebpf-userspace-exporter:0.1.0
RUN mv /usr/bin/python3.11 /usr/local/bin/ \
    && sed '1s|.*|#!/usr/local/bin/python3.11|' /opt/ebpf-userspace-exporter/bin/gunicorn >/usr/local/bin/gunicorn \
    && chmod 755 /usr/local/bin/gunicorn
COPY app.py /srv/
ENV PYTHONPATH=/opt/ebpf-userspace-exporter/lib/python3.11/site-packages
HEALTHCHECK NONE
ENTRYPOINT ["/usr/local/bin/gunicorn", "--chdir=/srv", "--bind=0.0.0.0:8000", "--worker-tmp-dir=/dev/shm", "--no-control-socket", "app:app"]
