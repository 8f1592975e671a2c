"""A checkpoint as files that run elsewhere, in ONNX or for `torch.export`; `tracker` tracks with the ONNX files."""
