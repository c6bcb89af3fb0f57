# CPU:   docker build -t nextvec .
# CUDA:  docker build -t nextvec:cuda --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04 --build-arg TORCH=cu130 .
# Run:   docker run --rm -v "$PWD:/work" nextvec demo
#
# TORCH names the build of torch at download.pytorch.org: cpu, or a CUDA version such as cu130 that fits BASE.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ARG TORCH=cpu
# The Python images have Python already; the CUDA images get Ubuntu's.
RUN command -v python3 >/dev/null || (apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/nextvec
COPY constraints.txt /tmp/constraints.txt
RUN /opt/nextvec/bin/pip install --no-cache-dir "$(grep '^torch==' /tmp/constraints.txt)" \
    --index-url "https://download.pytorch.org/whl/${TORCH}"
COPY . /src
RUN /opt/nextvec/bin/pip install --no-cache-dir -c /tmp/constraints.txt /src

FROM ${BASE}
# A C compiler builds the fused CPU ops at their first use. Without one, nextvec uses torch's operations.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev $(command -v python3 >/dev/null || echo python3) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/nextvec /opt/nextvec
RUN useradd --create-home --shell /usr/sbin/nologin nextvec && mkdir /work && chown nextvec /work
USER nextvec
WORKDIR /work
ENTRYPOINT ["/opt/nextvec/bin/nextvec"]
CMD ["--help"]
