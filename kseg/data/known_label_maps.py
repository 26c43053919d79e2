"""Label maps of well-known data sets, by the name that --label_map and --layout give them."""

from kseg.data.label_map import IGNORE, Color, build_label_map

_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist"]


def voc_color(value: int) -> Color:
    """Returns VOC's palette colour of a value: its bits, dealt to red, green and blue from the highest bit down."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (value >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]


def _voc():
    colors = {voc_color(value): name for value, name in enumerate(_VOC)}
    return build_label_map({**dict(enumerate(_VOC)), 255: IGNORE}, "voc", {**colors, voc_color(255): IGNORE})


KNOWN = {
    "voc": _voc(),
    "cityscapes": build_label_map(
        {**{value: _CITYSCAPES.get(value, IGNORE) for value in range(34)}, 255: IGNORE}, "cityscapes"
    ),  # the evaluated 19 classes; 255 is -1, the licence plate
    "cityscapes_train_ids": build_label_map({**dict(enumerate(_CITYSCAPES.values())), 255: IGNORE}, "cityscapes_train_ids"),
    "camvid": build_label_map({**dict(enumerate(_CAMVID)), 11: IGNORE, 255: IGNORE}, "camvid"),  # as published with SegNet
}
