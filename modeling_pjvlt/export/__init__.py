"""Export: a checkpoint as files that run elsewhere, for ONNX (`modeling_pjvlt.onnx_pjvlt` tracks with them) or `torch.export`."""
