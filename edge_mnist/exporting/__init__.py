"""Export: from a checkpoint to proven ONNX files. onnx lives here."""
