"""Label maps: kseg's own files, the files of other tools, and colours. The expected classes were worked out by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from kseg.data.dataset import BadSample
from kseg.data.known_label_maps import KNOWN, voc_color
from kseg.data.label_images import read_label
from kseg.data.label_map import IGNORE
from kseg.data.label_map_file import as_label_map, read_label_map
from kseg.utils.errors import KsegError

BLACK, RED, GREEN, GREY = [0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]


def read(tmp_path, name, text):
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return read_label_map(str(tmp_path / name))


def label(tmp_path, label_map, pixels, mode=None, **options):
    """Saves the pixels as a PNG and reads it with the label map."""
    picture = Image.fromarray(np.array(pixels, np.uint8))
    (picture.quantize(8) if mode == "P" else picture.convert(mode or picture.mode)).save(tmp_path / "label.png")
    return read_label(tmp_path / "label.png", "label.png", label_map, **options).tolist()


BY_VALUE = {
    "names.txt": ("background\na\nb\n\n", ("background", "a", "b"), {0: 0, 1: 1, 2: 2}),
    "commas.txt": ("wall\nbuilding, edifice\nsky\n", ("wall", "building, edifice", "sky"), {0: 0, 1: 1, 2: 2}),
    "labels.txt of labelme": ("__ignore__\n_background_\na\nb\n", ("_background_", "a", "b"), {0: 0, 1: 1, 2: 2, 255: 255}),
    "label_names.txt of labelme": ("_background_\na\n", ("_background_", "a"), {0: 0, 1: 1}),
    "numbered.txt": ("0: background\n3: a\n2: b\n", ("background", "a", "b"), {0: 0, 3: 1, 2: 2}),
    "numbered2.txt": ("1 accessory\n2 air conditioner\n", ("accessory", "air conditioner"), {1: 0, 2: 1}),
    "itk.txt": (
        '# ITK-SnAP Label Description File\n    0     0    0    0        0  0  0    "Clear Label"\n'
        '    4   255    0    0        1  1  1    "liver"\n',
        ("Clear Label", "liver"),
        {0: 0, 4: 1},
    ),
    "slicer.ctbl": ("# Color table\n0 Background 0 0 0 0\n2 bone 241 214 145 255\n", ("Background", "bone"), {0: 0, 2: 1}),
    "objectInfo150.txt": (
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t11664\t1172\t1\twall\n2\t0.1\t6046\t612\t1\tbuilding, edifice\n",
        ("wall", "building, edifice"),
        {0: 255, 1: 0, 2: 1},
    ),
    "_classes.csv": ("Pixel Value, Class\n0, background\n1, crack\n2, rust\n", ("background", "crack", "rust"), {0: 0, 2: 2}),
    "plain.csv": ("7,road\n8,car\n", ("road", "car"), {7: 0, 8: 1}),
    "semicolons.csv": ("name;id\nroad;7\ncar;8\n", ("road", "car"), {7: 0, 8: 1}),
    "class_mapping.csv": ("class_name,class_color\nbg,0\na,127\nb,255\n", ("bg", "a", "b"), {0: 0, 255: 2}),
    "map.yaml": ("0: background\n1: car\n2: car\n3: ignore\n", ("background", "car"), {0: 0, 1: 1, 2: 1, 3: 255, 255: 255}),
    "inverse.yaml": ("background: 0\nfg: 255\n", ("background", "fg"), {0: 0, 255: 1}),
    "inverse.json": ({"car": 2, "ignore": 0}, ("car",), {2: 0, 0: 255}),
    "label_classes.json": (
        [{"png_index": 2, "class_name": "b", "color": "#4df3ceff", "class_type": "object"},
         {"png_index": 1, "class_name": "a", "color": "#4c4ffcff", "class_type": "object"}],
        ("background", "b", "a"),
        {0: 0, 2: 1, 1: 2},
    ),
    "obj_class_to_machine_color.json": ({"kiwi": [1, 1, 1], "lemon": [2, 2, 2]}, ("background", "kiwi", "lemon"), {0: 0, 2: 2}),
    "dataset_meta.json": (
        {"label_map": {"0": "background", "1": "cat"}, "background_label": "0", "segmentation_colors": [BLACK, RED]},
        ("background", "cat"),
        {0: 0, 1: 1},
    ),
    "config_v1.2.json": (
        {"labels": [{"name": "bird", "color": RED, "evaluate": True}, {"name": "void", "color": BLACK, "evaluate": False},
                    {"name": "curb", "color": [196, 196, 196], "evaluate": True}]},
        ("bird", "curb"),
        {0: 0, 1: 255, 2: 1},
    ),
    "config.json": ({"architectures": ["X"], "id2label": {"0": "wall", "1": "sky"}}, ("wall", "sky"), {0: 0, 1: 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_VALUE)
def test_files_of_values(tmp_path, case):
    text, names, classes = BY_VALUE[case]
    label_map = read(tmp_path, case.split(" ")[0], text)
    assert label_map.class_names == names
    assert label(tmp_path, label_map, [list(classes)]) == [list(classes.values())]
    assert label(tmp_path, label_map, [[[value] * 3 for value in classes]]) == [list(classes.values())]  # grey, as RGB


BY_COLOR = {
    "labelmap.txt of CVAT": "# label:color_rgb:parts:actions\nbackground:0,0,0::\na:128,0,0::\nb:0,128,0:hand,foot:jumping\n",
    "labelmap.txt without a head": "background:0,0,0::\na:128,0,0::\nb:0,128,0::\n",
    "label_colors.txt of CamVid": "0 0 0\t\tbackground\n128 0 0\t\ta\n0 128 0\tb\n",
    "label_colors.txt of CVAT": "# color_rgb label\n0 0 0 background\n128 0 0 a\n0 128 0 b\n",
    "colors.txt": "background 0 0 0\na 128,0,0\nb: 0 128 0\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\na,128,0,0\nb,0,128,0\n",
    "class_dict_seg.csv": "name, r, g, b\nbackground, 0, 0, 0\na, 128, 0, 0\nb, 0, 128, 0\n",
    "head.csv": "background,0,0,0\na,128,0,0\nb,0,128,0\n",
    "class_mapping.csv": "class_name,class_color\nbackground,0 0 0\na,128 0 0\nb,0 128 0\n",
    "hex.csv": "label,hex\nbackground,#000000\na,#800000\nb,#008000\n",
    "table.yaml": "background: [0, 0, 0]\na: [128, 0, 0]\nb: [0, 128, 0]\n",
    "hex.yaml": "background: '#000000'\na: '#800000'\nb: '#008000'\n",
    "meta.json": {
        "classes": [
            {"title": "a", "shape": "polygon", "color": "#800000"},
            {"title": "b", "shape": "bitmap", "color": "#008000"},
        ],
        "tags": [],
    },
    "labels.json": [
        {"name": "a", "id": 3, "color": "#800000", "attributes": []},
        {"name": "b", "id": 4, "color": "#008000", "attributes": []},
    ],
}


@pytest.mark.parametrize("case", BY_COLOR)
def test_files_of_colours(tmp_path, case):
    label_map = read(tmp_path, case.split(" ")[0], BY_COLOR[case])
    assert label_map.class_names == ("background", "a", "b")
    picture = [[BLACK, RED, GREEN], [RED, RED, BLACK]]
    expected = [[0, 1, 2], [1, 1, 0]]
    for mode in (None, "RGBA", "P"):
        assert label(tmp_path, label_map, picture, mode) == expected


REFUSED = {
    "labelmap.txt": ("a:::\nb:::\n", "CVAT without colours"),
    "mixed.txt": ("background\na:128,0,0::\n", "line 2, 'a:128,0,0::', is not just a class name"),
    "comment.txt": ("# classes\nbackground\n", "line 1, '# classes', is not just a class name"),
    "yaml.txt": ("- a\n- b\n", "line 1, '- a', is not"),
    "json.txt": ('["a", "b"]', "is not just a class name"),
    "gap.txt": ("a\n\nb\n", "line 2 is empty"),
    "late.txt": ("_background_\n__ignore__\n", "__ignore__ is not its first line"),
    "stuff.txt": (
        "\n".join(f"{i}: {'unlabeled' if i == 0 else 'person' if i == 1 else f'c{i}'}" for i in range(183)),
        "COCO-Stuff",
    ),
    "label_map.pbtxt": ("item {\n  id: 1\n  name: 'car'\n}\n", "line 2, 'id: 1'"),
    "a.xml": ("<annotations/>", "is an XML or HTML file"),
    "head.csv": ("klasse,wert\na,0\n", "no columns name and value"),
    "value.csv": ("name,value\na,zero\n", "'zero' and 'a'"),
    "color.csv": ("name,r,g,b\na,0,0,300\n", "is not a colour"),
    "twice.csv": ("name,value\na,0\nb,0\n", "the value 0 is of 'a' and of 'b'"),
    "twice.yaml": ("1: a\n1: b\n", "1 occurs twice"),
    "twice.json": ('{"1": "a", "1": "b"}', "'1' occurs twice"),
    "same.yaml": ("a: [1, 2, 3]\nb: [1, 2, 3]\n", r"the colour \[1, 2, 3\] is of 'a' and of 'b'"),
    "inverse.yaml": ("a: 1\nb: 1\n", "the value 1 is of 'a' and of 'b'"),
    "two.yaml": ("a: [1, 2]\n", "which is no colour"),
    "large.yaml": ("a: [1, 2, 256]\n", "which is no colour"),
    "mixed.yaml": ("a: [1, 2, 3]\n1: b\n", "which is no colour|not a"),
    "coco.json": ({"images": [], "annotations": [], "categories": []}, "is a COCO file: --dataset=coco"),
    "notes.json": ({"categories": [{"id": 0, "name": "a"}], "info": {}}, "Label Studio's notes.json"),
    "one.json": ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "labelme's file of one image"),
    "via.json": ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
    "polygons.json": ({"imgHeight": 9, "imgWidth": 9, "objects": []}, "Cityscapes"),
    "classes.json": ({"pathClasses": [{"name": "Tumor", "color": -3670016}]}, "QuPath"),
    "data.yaml": ("train: a\nval: b\nnc: 2\nnames: ['a', 'b']\n", "YOLO's data.yaml"),
    "control.txt": ("a\nb\x07\n", "is not a class name"),
    "malformed.json": ({"id2label": 5, "labels": [[1]]}, "have no names"),
    "malformed2.json": ([{"png_index": "x", "class_name": "a"}], "looks like a tool's label map, but is malformed"),
    "list.json": ([{"id": 0, "name": "a"}], "do not say which value"),
    "meta.json": ({"classes": [{"title": "a"}]}, "have no title and color"),
    "dataset_meta.json": ({"label_map": {"a": 0}, "segmentation_colors": []}, "is not of the kind"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files(tmp_path, case):
    text, reason = REFUSED[case]
    with pytest.raises(KsegError, match=reason) as error:
        read(tmp_path, case, text)
    assert case in str(error.value)
    assert "\n" not in str(error.value)


def test_a_colour_that_is_not_listed_is_named_with_its_place(tmp_path):
    label_map = as_label_map({"a": RED, "ignore": GREEN}, None)
    assert label(tmp_path, label_map, [[RED, GREEN]]) == [[0, 255]]
    with pytest.raises(BadSample, match=r"row 1, column 0 has the colour \[1, 2, 3\].*NAME: \[1, 2, 3\], or ignore: \[1, 2, 3\]"):
        label(tmp_path, label_map, [[RED, GREEN], [[1, 2, 3], RED]])
    for color in ([255, 255, 255], BLACK):  # before and after all that are listed
        with pytest.raises(BadSample, match="row 0, column 0"):
            label(tmp_path, label_map, [[color]])
    with pytest.raises(BadSample, match="if the images hold class numbers, write a label map of values, such as 0: NAME"):
        label(tmp_path, label_map, [[0]])


def test_several_colours_of_a_class_and_a_black_that_is_none(tmp_path):
    label_map = as_label_map({"a": [RED, GREEN], "b": "#0000ff"}, None)
    assert label(tmp_path, label_map, [[RED, GREEN, [0, 0, 255]]]) == [[0, 0, 1]]


def test_a_colour_image_needs_colours(tmp_path):
    with pytest.raises(BadSample, match=r"label_map lists values; list colours instead, as in NAME: \[128, 0, 0\]"):
        label(tmp_path, as_label_map({0: "a"}, None), [[BLACK, RED]])


def test_voc_by_value_and_by_colour(tmp_path):
    voc = KNOWN["voc"]
    assert read_label_map("voc") is voc
    assert (voc.class_names[0], voc.class_names[15], len(voc.class_names)) == ("background", "person", 21)
    assert label(tmp_path, voc, [[0, 15, 20, 255]]) == [[0, 15, 20, 255]]
    assert label(tmp_path, voc, [[[192, 128, 128], [0, 64, 128], GREY, BLACK]]) == [[15, 20, 255, 0]]
    palette = Image.frombytes("P", (2, 1), bytes([15, 255]))
    palette.putpalette([part for value in range(256) for part in voc_color(value)])
    palette.save(tmp_path / "p.png")
    assert read_label(tmp_path / "p.png", "p.png", voc).tolist() == [[15, 255]]


def test_a_label_map_of_values_and_colours(tmp_path):
    """Grey colours are colours in an RGB image, and values in a grey one."""
    label_map = read(tmp_path, "both.csv", "value,name,r,g,b\n0,background,0,0,0\n1,a,2,2,2\n2,b,1,1,1\n3,c,128,0,0\n")
    assert label(tmp_path, label_map, [[0, 1, 2, 3]]) == [[0, 1, 2, 3]]
    assert label(tmp_path, label_map, [[[0] * 3, [1] * 3, [2] * 3, RED]]) == [[0, 2, 1, 3]]
    assert label(tmp_path, label_map, [[[0] * 3, [1] * 3, [2] * 3]]) == [[0, 2, 1]]
    assert label(tmp_path, label_map, [[[0] * 3, [1] * 3, [3] * 3]]) == [[0, 1, 3]]  # 3 is no colour
    with pytest.raises(BadSample, match=r"row 0, column 1 has the colour \[9, 0, 0\]"):
        label(tmp_path, label_map, [[RED, [9, 0, 0]]])


def test_known_label_maps():
    cityscapes = KNOWN["cityscapes"]
    assert len(cityscapes.class_names) == 19
    assert cityscapes(np.array([[7, 8, 33, 0, 6, 255]], np.uint8), "x").tolist() == [[0, 1, 18, 255, 255, 255]]
    assert KNOWN["cityscapes_train_ids"](np.array([[0, 18, 255]], np.uint8), "x").tolist() == [[0, 18, 255]]
    assert KNOWN["camvid"](np.array([[0, 10, 11]], np.uint8), "x").tolist() == [[0, 10, 255]]


def test_ignored_classes(tmp_path):
    label_map = as_label_map({0: "background", 1: "a", 2: "b"}, None).ignoring(("a",))
    assert label_map.class_names == ("background", "b")
    assert label_map(np.array([[0, 1, 2, 255]], np.uint8), "x").tolist() == [[0, 255, 1, 255]]
    assert label_map.meanings() == [("0", "background"), ("1", "ignored"), ("2", "b"), ("255", "ignored")]
    colors = as_label_map({"a": RED, "b": GREEN}, None).ignoring(("a",))
    assert label(tmp_path, colors, [[RED, GREEN]]) == [[255, 0]]
    assert colors.meanings() == [("128 0 0", "ignored"), ("0 128 0", "b")]
    with pytest.raises(KsegError, match="has no class 'bb'; did you mean b"):
        label_map.ignoring(("bb",))
    with pytest.raises(KsegError, match="every class is ignored"):
        label_map.ignoring(("background", "b"))
    assert IGNORE in label_map.names.values()
