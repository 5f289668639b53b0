"""Many pictures, several processes: paths on standard input, one answer a line, in order.

``find scans -name '*.png' | python queue_worker.py``
"""

import sys
from concurrent.futures import ProcessPoolExecutor

from edge_mnist import PictureError, Predictor

predictor = Predictor()  # every worker gets it by pickle, and opens a session of its own


def read(job: tuple[Predictor, str]) -> str:
    """Read one picture; runs in a worker process."""
    reader, path = job
    try:
        seen = reader.predict(path)
    except PictureError as error:
        return f"{path}\terror\t{error}"
    return f"{path}\t{seen.status}\t{seen.reason or seen.digit}"


if __name__ == "__main__":
    paths = [line.rstrip("\n") for line in sys.stdin]
    with ProcessPoolExecutor(2) as pool:
        for line in pool.map(read, [(predictor, path) for path in paths], chunksize=16):
            print(line)
