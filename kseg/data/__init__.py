"""Data sets, from files to batches. Importing this package imports neither TensorFlow nor any source.

- dataset.py: what a data set is. build.py: `build_dataset`, by name. sources/: one file for each `--dataset`.
- subset.py, cache.py: data sets made from others. check.py: opens a split and checks every sample.
- image_io.py, image_checks.py, label_images.py, paths.py: shared by the sources. palette.py: the classes' colours.
- label_map.py, label_map_file.py, label_map_tools.py, known_label_maps.py: which value or colour is which class.
- layouts.py: `--layout`. search.py: where missing files are instead. reading.py: what was decided. label_values.py: 0 and 255.
- augmentation/: presets and transforms. loading/: worker processes and tf.data batches.
- inspection/: `python -m kseg.inspect_data`. shards.py: `python -m kseg.write_shards`.
"""

from kseg.data.build import build_dataset
from kseg.data.dataset import IGNORE_INDEX, BadSample, Dataset, Sample
from kseg.data.registry import DATASETS, register_dataset

__all__ = ["DATASETS", "IGNORE_INDEX", "BadSample", "Dataset", "Sample", "build_dataset", "register_dataset"]
