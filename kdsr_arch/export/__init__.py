"""Students out: ONNX, safetensors and ExportedProgram, with what a user must know inside the file."""
