"""Writes a model for OpenVINO from an ONNX file."""

from pathlib import Path

from kseg.runtime.openvino_import import import_openvino


def write_openvino(onnx: Path, path: Path) -> None:
    """Writes `path`, an .xml file, and a .bin file beside it with the weights in float32. Deletes the ONNX file."""
    openvino = import_openvino()
    model = openvino.Core().read_model(onnx)
    openvino.save_model(model, path, compress_to_fp16=False)
    del model  # it may have mapped the file to memory
    onnx.unlink()
