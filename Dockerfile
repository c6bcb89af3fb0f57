# CPU:   docker build -t nextvec .
# CUDA:  docker build -t nextvec:cuda --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04 --build-arg TORCH=cu130 .
# Ray:   docker build -t nextvec:ray --build-arg EXTRAS=ray,serve,minilm .
# Run:   docker run --rm -v "$PWD:/work" nextvec demo
#
# EXTRAS names extras of nextvec. The image with Ray is that of examples/kubernetes and examples/ray.
# TORCH names the build of torch at download.pytorch.org: cpu, or a CUDA version such as cu130 that fits BASE.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ARG TORCH=cpu
ARG EXTRAS=
# The Python images have Python already; the CUDA images get Ubuntu's.
RUN command -v python3 >/dev/null || (apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/nextvec
COPY constraints.txt /tmp/constraints.txt
RUN /opt/nextvec/bin/pip install --no-cache-dir "$(grep '^torch==' /tmp/constraints.txt)" \
    --index-url "https://download.pytorch.org/whl/${TORCH}"
COPY . /src
RUN /opt/nextvec/bin/pip install --no-cache-dir -c /tmp/constraints.txt "/src${EXTRAS:+[$EXTRAS]}"

FROM ${BASE}
# A C compiler builds the fused CPU ops at their first use. Without one, nextvec uses torch's operations. The probes of
# KubeRay call wget.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev wget $(command -v python3 >/dev/null || echo python3) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/nextvec /opt/nextvec
# Ray is started by name: by `docker exec`, and in login shells, which set their own PATH.
ENV PATH="/opt/nextvec/bin:${PATH}"
RUN echo 'PATH="/opt/nextvec/bin:$PATH"' > /etc/profile.d/nextvec.sh
RUN useradd --create-home --shell /usr/sbin/nologin nextvec && mkdir /work && chown nextvec /work
USER nextvec
WORKDIR /work
ENTRYPOINT ["/opt/nextvec/bin/nextvec"]
CMD ["--help"]
