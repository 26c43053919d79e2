"""Data flags by source, and the names of data sets and tools that people type for --dataset."""

from collections.abc import Mapping
from typing import Any

LAYOUT_SOURCES = {
    "voc": ("folder",),
    "cityscapes": ("folder",),
    "camvid": ("folder",),
    "roboflow": ("coco", "folder"),
    "cvat": ("coco", "folder"),
}
"""The sources of each --layout. See kseg.data.layouts."""
LAYOUTS = tuple(LAYOUT_SOURCES)

READ_BY = {
    "layout": ("coco", "folder"),
    "annotations": ("coco",),
    "images": ("coco", "folder"),
    "background": ("coco", "synthetic"),
    "ignore_categories": ("coco", "folder", "tfds", "synthetic"),
    "labels": ("folder",),
    "split_list": ("folder",),
    "label_map": ("folder", "tfds"),
    "label_threshold": ("folder", "tfds"),
    "tfds_name": ("tfds",),
    "tfds_image": ("tfds",),
    "tfds_label": ("tfds",),
    "exif": ("coco", "folder", "tfds"),
    "follow_links": ("coco", "folder"),
    "on_bad_annotation": ("coco",),
}
"""The sources that read a flag. Other flags are read by every source."""
_SOURCES = ("coco", "folder", "tfds", "synthetic", "python")
"""Sources of kseg. One that a user registered may read every flag."""

_OTHER_NAMES = {
    "voc": ("voc", "pascal", "pascal_voc", "voc2012", "voc2007", "pascalvoc"),
    "folder": ("image_folder", "imagefolder", "images", "masks", "png", "custom", "directory", "dir", "mmseg", "files"),
    "coco": ("json", "coco_json", "coco_instance", "label_studio", "labelstudio", "lvis", "makesense"),
    "ade20k": ("ade20k", "ade"),
    "coco_stuff": ("coco_stuff", "cocostuff"),
    "labelme": ("labelme",),
    "supervisely": ("supervisely",),
    "yolo": ("yolo", "yolov5", "yolov8", "ultralytics"),
    "tfds": ("tfrecord", "tfrecords", "tensorflow_datasets", "array_record", "arrayrecord"),
    "python": ("numpy", "npy", "npz", "array", "arrays", "tf_data", "huggingface", "hf", "datasets", "torch"),
}
_HOW = {
    "voc": "Pascal VOC is read by --dataset=folder --layout=voc",
    "folder": "folders of images and label images are read by --dataset=folder",
    "coco": "it is read as a COCO file, by --dataset=coco",
    "ade20k": "ADE20K is read by --dataset=folder --images=images/{split} --labels=annotations/{split} "
    "--label_map=objectInfo150.txt --train_split=training --val_split=validation",
    "coco_stuff": "COCO-Stuff is read by --dataset=folder --images={split}2017 --labels=stuffthingmaps/{split}2017 "
    "--label_map=FILE",
    "labelme": "labelme's files are read after labelme2voc, by --dataset=folder --layout=voc --labels=SegmentationClassPNG "
    "--label_map=class_names.txt, or after labelme2coco, by --dataset=coco",
    "supervisely": "'Export as masks' is read by --dataset=folder --images='DATASET/img' --labels='DATASET/masks_machine' "
    "--label_map=obj_class_to_machine_color.json",
    "yolo": "YOLO's text files are not read; export the data as COCO, for --dataset=coco",
    "tfds": "TensorFlow Datasets are read by --dataset=tfds --tfds_name=NAME",
    "python": "arrays and other objects are given from Python: kseg.ArrayDataset, kseg.Segmenter.fit",
}
_LAYOUTS = {
    "cityscapes": "Cityscapes is read by --dataset=folder --layout=cityscapes",
    "camvid": "CamVid is read by --dataset=folder --layout=camvid",
    "roboflow": "Roboflow's exports are read with --layout=roboflow by --dataset=coco (COCO Segmentation) or --dataset=folder "
    "(Semantic Segmentation Masks)",
    "cvat": "CVAT's exports are read with --layout=cvat by --dataset=coco (COCO 1.0) or --dataset=folder (Segmentation mask 1.1)",
}


def how_to_read(dataset: str) -> str | None:
    """Returns how to read what a user calls by this name, if it is no source; else None."""
    name = dataset.lower().replace("-", "_").replace(" ", "_")
    if name in _LAYOUTS:
        return _LAYOUTS[name]
    return next((_HOW[kind] for kind, names in _OTHER_NAMES.items() if name in names and dataset not in _SOURCES), None)


def is_read(flag: str, dataset: str) -> bool:
    """Returns True if the source reads the flag."""
    return dataset not in _SOURCES or flag not in READ_BY or dataset in READ_BY[flag]


def drop_unread(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config's values without flags that its source does not read. Earlier versions wrote and ignored them."""
    dataset = values.get("dataset")
    kept = {name: value for name, value in values.items() if not isinstance(dataset, str) or _was_read(name, dataset)}
    if not kept.get("val_fraction"):
        kept = {name: value for name, value in kept.items() if name not in ("split_group", "split_seed")}
    return kept


def _was_read(flag: str, dataset: str) -> bool:
    return is_read(flag, dataset) and not (flag == "ignore_categories" and dataset in _SOURCES and dataset != "coco")
