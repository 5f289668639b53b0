import numpy as np
from numpy.typing import NDArray

def read_grey(grey: NDArray[np.uint8], image: NDArray[np.uint8], framing: int) -> int: ...
