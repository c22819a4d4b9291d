# advhash on a CPU: `docker build -t advhash .`, then `docker run --rm -v $PWD/runs:/work/runs advhash`.
# Without arguments it makes the demo's first attack, in a new folder of runs/; any other command stands behind the name:
# `docker run --rm -v $PWD:/work advhash scan photos`.
FROM python:3.11-slim
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install --no-cache-dir . \
    && pip install --no-cache-dir --no-deps torchattacks==3.5.1 \
    && rm -rf /source
ENV OMP_NUM_THREADS=1 ADVHASH_CACHE=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["advhash"]
CMD ["attack", "--victim", "dlcmh", "--method", "prosgan"]
