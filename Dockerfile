# A server of a fitted run: the run is mounted, nothing of it is in the image.
#   docker build -t vladapt .
#   docker run -p 8000:8000 -e VLADAPT_TOKEN=... -v "$PWD/runs/RUN:/model:ro" --tmpfs /tmp vladapt
# With CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126, and `docker run --gpus all`.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,export,embedded,open-clip,hf,medical
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/vladapt
ENV PATH=/opt/vladapt/bin:$PATH
# torch first, from its own index, and in a layer of its own: it is large, and changes least.
RUN pip install --index-url "${TORCH_INDEX}" "torch>=2.6" "torchvision>=0.21"
COPY . /source
RUN pip install "/source[${EXTRAS}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/vladapt /opt/vladapt
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin vladapt
ENV PATH=/opt/vladapt/bin:$PATH PYTHONUNBUFFERED=1 VLADAPT_CACHE=/home/vladapt/cache
USER 10001
WORKDIR /home/vladapt
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# The token comes from VLADAPT_TOKEN; without one the server refuses to start, since others reach it.
ENTRYPOINT ["vladapt", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
