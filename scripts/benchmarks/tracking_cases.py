"""The cases of `python scripts/benchmarks tracking`."""

EAGER, COMPILED = ["plain", "text", "fast", "baseline"], ["compiled", "compiled-baseline"]
EXPORTED = ["onnx", "onnx-int8"]
HELP = """cases:
  plain               the model itself in the loop, its sentence encoded once
  text                the same, with the sentence encoded again for every frame
  fast                the path of sessions: model.prepare_for_tracking()
  baseline            the fast path of the same model without language (fusion="none")
  compiled            fast through torch.compile, on a GPU with CUDA graphs
  compiled-baseline   baseline through torch.compile
  onnx                the files that pjvlt-export writes, in onnxruntime; on a CPU, in fp32
  onnx-int8           the same, made with --int8

examples:
  benchmarks tracking --models tiny                                 the quickest
  benchmarks tracking --models base --targets 1 --precisions bf16
  benchmarks tracking --models tiny --targets 1 --cases plain fast baseline onnx
  benchmarks tracking --targets 1 --compile --output times.json     compiling takes minutes on a CPU
"""
