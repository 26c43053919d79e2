"""Does the work of kseg.inspect_data: inspects a data set and writes inspection.html and inspection.json."""

from pathlib import Path

from kseg.config import InspectConfig
from kseg.data.augmentation.augmenter import Augmenter
from kseg.data.inspection.inspect import Inspection, inspect
from kseg.reports.inspection_page import write_inspection_page
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text


def inspect_data(config: InspectConfig) -> tuple[Inspection, Path]:
    """Returns the inspection and the path of its page. Raises KsegError if no split can be read or --output cannot be written."""
    Augmenter(config.augment, config.image_size)  # refuses an unknown preset before reading the data
    folder = Path(config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inspection = inspect(config)
        write_text(folder / "inspection.json", inspection.to_json())
        write_inspection_page(folder / "inspection.html", inspection, config)
    except OSError as error:
        raise KsegError(f"--output={folder}: cannot be written ({error.strerror or error})") from None
    return inspection, folder / "inspection.html"
