"""Where an encoder that was trained elsewhere comes from: a library's checkpoint, a folder, a module, an ONNX file."""
