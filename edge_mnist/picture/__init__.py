"""From any picture to the model's input, with NumPy and Pillow alone.

``frame.read_picture`` is the entry: decode (``decode``), find the digit's ink (``digit``), bring it
to the form of an MNIST image (``frame``).
"""
