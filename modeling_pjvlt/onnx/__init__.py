"""Export of a checkpoint to ONNX, OpenVINO or `torch.export`; `tracker` tracks with the ONNX and OpenVINO files."""
