"""Students out: ONNX, safetensors, TorchScript and ExportedProgram, with what a user must know inside the file."""
