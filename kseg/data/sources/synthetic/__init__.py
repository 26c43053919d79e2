"""The synthetic data set: drawn litter for tests, demonstrations and a first run. Not a benchmark.

dataset.py writes and opens it, scene.py draws an image, objects.py defines the kinds of litter.
"""

from kseg.data.sources.synthetic.dataset import load_synthetic, synthetic_coco

__all__ = ["load_synthetic", "synthetic_coco"]
