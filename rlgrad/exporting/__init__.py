"""``rlgrad export``: a trained policy as an ONNX file that gives the same numbers."""
