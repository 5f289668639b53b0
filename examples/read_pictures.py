"""Read the digits in some pictures: ``python read_pictures.py a.png b.jpg``."""

import sys

from edge_mnist import Predictor

with Predictor() as predictor:
    for path, seen in zip(sys.argv[1:], predictor.predict_many(sys.argv[1:]), strict=True):
        if seen.status == "ok":
            print(f"{path}: {seen.digit} ({seen.confidence:.1%})")
        else:
            print(f"{path}: {seen.status}, {seen.reason or seen.error}")
