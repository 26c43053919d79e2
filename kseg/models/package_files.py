"""Finds weights that an installed Python package holds."""

import hashlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from kseg.models.backbones.registry import PackageFile
from kseg.utils.errors import KsegError


def is_installed(wanted: PackageFile) -> bool:
    """Returns True if the package is installed. Does not import it."""
    return find_spec(wanted.package) is not None


def package_file(wanted: PackageFile) -> Path:
    """Returns the path of a file of an installed package. Raises KsegError if it is missing, or differs from its hash."""
    spec = find_spec(wanted.package)  # does not import the package
    if spec is None or not spec.submodule_search_locations:
        raise KsegError(f"the package {wanted.package} is not installed; pip install {wanted.package}")
    path = Path(next(iter(spec.submodule_search_locations)), wanted.file)
    advice = f"install it again with pip install --force-reinstall {wanted.package}"
    if not path.is_file():
        raise KsegError(f"{describe(wanted)}: the package has no such file: it is another version or damaged; {advice}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != wanted.sha256:
        raise KsegError(f"{path}: is not the file of that name that kseg knows, by its SHA-256; {advice}")
    return path


def describe(wanted: PackageFile) -> str:
    """Returns the file's name and its package, with the version if it is installed."""
    try:
        version = f" {metadata.version(wanted.package)}"
    except metadata.PackageNotFoundError:
        version = ""
    return f"{Path(wanted.file).name} of the package {wanted.package}{version}"
