"""--layout: the files of a well-known data set or tool, as the flags that name them."""

import dataclasses
from pathlib import Path

from kseg.config import DataConfig
from kseg.config.data_sources import LAYOUT_SOURCES
from kseg.data.label_map_file import read_label_map
from kseg.utils.errors import KsegError

VOC_LISTS = "ImageSets/Segmentation/{split}.txt"
Flags = dict[str, str | tuple[str, ...]]


def apply_layout(config: DataConfig, split: str) -> tuple[DataConfig, str]:
    """Returns the config with the layout's files where no flag names others, and the split as the layout calls it.

    Raises KsegError if data_dir is not of this layout.
    """
    if config.layout is None or config.data_dir is None:
        return config, split
    root = Path(config.data_dir).expanduser()
    if not root.is_dir():
        return config, split  # the source says so
    flags: Flags
    if config.layout == "voc":
        flags = _voc(root)
    elif config.layout == "cityscapes":
        flags = _cityscapes(root)
    elif config.layout == "camvid":
        flags = _camvid(root, split)
    elif config.layout == "roboflow":
        split = "valid" if split == "val" and not (root / "val").is_dir() and (root / "valid").is_dir() else split
        flags = _roboflow(root, split, config.dataset)
    else:
        flags = _cvat(root, config.dataset)
    defaults = {item.name: item.default for item in dataclasses.fields(DataConfig)}
    unset = {name: value for name, value in flags.items() if getattr(config, name) == defaults[name]}
    if "label_map" not in unset:  # names that are ignored belong to the layout's own label map
        unset.pop("ignore_categories", None)
    return dataclasses.replace(config, **unset), split  # type: ignore[arg-type]


def guess_layout(root: Path) -> tuple[str, str] | None:
    """Returns the (layout, source) of a folder's files; None if they are of no known layout."""
    if (root / "JPEGImages").is_dir() and any(root.glob("SegmentationClass*")):
        return ("cvat" if (root / "labelmap.txt").is_file() else "voc"), "folder"
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        return "cityscapes", "folder"
    if any(root.glob("*annot")) or (any(root.glob("*_labels")) and (root / "class_dict.csv").is_file()):
        return "camvid", "folder"
    if next(root.glob("*/_annotations.coco.json"), None):
        return "roboflow", "coco"
    if next(root.glob("*/_classes.csv"), None) and next(root.glob("*/*_mask.png"), None):
        return "roboflow", "folder"
    if next(root.glob("annotations/instances_default.json"), None):
        return "cvat", "coco"
    return None


def layout_hint(root: Path) -> str:
    """Returns the flags that read the layout of a folder, or of one up to two levels below, for messages; "" if there is none."""
    below = [path for pattern in ("*", "*/*") for path in sorted(root.glob(pattern)) if path.is_dir()][:200]
    for folder in (root, *below):
        if (found := guess_layout(folder)) is None:
            continue
        layout, source = found
        dataset = f"--dataset={source} " if len(LAYOUT_SOURCES[layout]) > 1 else ""
        where = "" if folder == root else f"--data_dir={folder} "
        return f"{where}{dataset}--layout={layout}"
    return ""


def _voc(root: Path) -> Flags:
    """Pascal VOC, and data that labelme2voc wrote."""
    flags: Flags = {"images": "JPEGImages", "labels": "SegmentationClass", "label_map": "voc"}
    if (root / "SegmentationClassPNG").is_dir():
        flags["labels"] = "SegmentationClassPNG"
    if (root / "ImageSets/Segmentation").is_dir():
        flags["split_list"] = VOC_LISTS
    for name in ("labelmap.txt", "class_names.txt"):
        if (root / name).is_file():
            flags["label_map"] = str(root / name)
    return flags


def _cityscapes(root: Path) -> Flags:
    """Cityscapes: the 19 classes that are evaluated. CVAT's export has classes of its own, in a table of colours."""
    flags: Flags = {
        "images": "leftImg8bit/{split}/*_leftImg8bit.png",
        "labels": "gtFine/{split}/*_gtFine_labelIds.png",
        "label_map": "cityscapes",
    }
    if (root / "label_colors.txt").is_file():
        flags |= {"labels": "gtFine/{split}/*_gtFine_color.png", "label_map": str(root / "label_colors.txt")}
    elif next(root.glob("gtFine/*/*/*_gtFine_labelIds.png"), None) is None and (
        next(root.glob("gtFine/*/*/*_gtFine_labelTrainIds.png"), None) is not None
    ):
        flags |= {"labels": "gtFine/{split}/*_gtFine_labelTrainIds.png", "label_map": "cityscapes_train_ids"}
    if (root / "imgsFine").is_dir():
        flags["images"] = "imgsFine/leftImg8bit/{split}/*_leftImg8bit.png"
    return flags


def _camvid(root: Path, split: str) -> Flags:
    """CamVid as published with SegNet (11 classes), by CVAT, on Kaggle (32 classes, with colours), or as it was first."""
    flags: Flags = {"images": "{split}", "labels": "{split}annot", "label_map": "camvid"}
    if (root / f"{split}_labels").is_dir():
        flags |= {"labels": "{split}_labels/*_L.png", "label_map": str(root / "class_dict.csv")}
    elif (root / "LabeledApproved_full").is_dir():
        flags |= {"images": "701_StillsRaw_full", "labels": "LabeledApproved_full/*_L.png"}
        if (root / f"{split}.txt").is_file():
            flags["split_list"] = "{split}.txt"
    elif not (root / f"{split}annot").is_dir():
        raise KsegError(
            f"--layout=camvid: {root} has no folder {split}annot (SegNet, CVAT), {split}_labels (Kaggle) or "
            "LabeledApproved_full; check --data_dir and the splits, or name the files with --images and --labels"
        )
    if (root / "label_colors.txt").is_file():
        flags["label_map"] = str(root / "label_colors.txt")
    if flags["label_map"] != "camvid" and Path(str(flags["label_map"])).is_file():
        names = read_label_map(str(flags["label_map"])).class_names
        flags["ignore_categories"] = tuple(name for name in names if name == "Void")
    return flags


def _roboflow(root: Path, split: str, dataset: str) -> Flags:
    """Roboflow's exports COCO Segmentation, and Semantic Segmentation Masks."""
    if dataset == "coco":
        return {"annotations": "{split}/_annotations.coco.json", "images": "{split}"}
    return {"images": "{split}/*.jpg", "labels": "{split}/*_mask.png", "label_map": str(root / split / "_classes.csv")}


def _cvat(root: Path, dataset: str) -> Flags:
    """CVAT's exports COCO 1.0, and Segmentation mask 1.1."""
    if dataset == "coco":
        images = "images/{split}" if any(path.is_dir() for path in root.glob("images/*")) else "images"
        return {"annotations": "annotations/instances_{split}.json", "images": images}
    lists = {"split_list": VOC_LISTS} if (root / "ImageSets/Segmentation").is_dir() else {}
    return {"images": "JPEGImages", "labels": "SegmentationClass", "label_map": str(root / "labelmap.txt"), **lists}
