"""Imports OpenVINO without its telemetry."""

from typing import Any

from kseg.utils.system import without


def import_openvino() -> Any:
    """Returns the module openvino. Its import would fork this process, to report the import to Google Analytics."""
    with without("openvino_telemetry"):
        import openvino

    return openvino
