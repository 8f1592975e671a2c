"""Export of a checkpoint to ONNX or `torch.export`; `tracker` tracks with the ONNX files."""
