"""Folders that transformers saved: they open from disk and by name, start a run, and go back with the same numbers."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from baselines import randomise
from hub_server import serve
from safetensors.numpy import load_file
from torchvision_ops import declare_torchvision_ops

import kseg
from kseg import convert, hub
from kseg.config import DataConfig, TrainConfig
from kseg.inference.source import find_source
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.evaluation_files import write_evaluation
from kseg.models import credits, transformers_processor
from kseg.models.backbones import convnext, mix_transformer, swin
from kseg.models.credits import Credits
from kseg.models.folder_files import FolderFiles
from kseg.models.model_folder import find_model_folder
from kseg.models.sharded_weights import read_weights
from kseg.models.transformers_config import transformers_config, transformers_info
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

mix_transformer.register("test_mit_folder", mix_transformer.Variant((1, 1, 1, 1), (8, 16, 20, 32)))
convnext.register("test_convnext_folder", convnext.Size((1, 1, 1, 1), 8))
swin.register("test_swin_folder", swin.Variant((1, 1, 1, 1), 8, (1, 2, 2, 4), 5))
NAMES = {0: "wall", 1: "door", 2: "sky", 3: "door"}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PROCESSOR = {
    "do_normalize": True, "do_resize": True, "feature_extractor_type": "SegformerFeatureExtractor", "image_mean": MEAN,
    "image_std": STD, "reduce_labels": True, "resample": 2, "size": 64,
}  # fmt: skip
"""As NVIDIA's repositories have it."""
CARD = "---\nlicense: other\ntags:\n- vision\n---\n# SegFormer\n"
NVIDIA = "nvidia/segformer-b0-finetuned-ade-512-512"


@pytest.fixture(scope="module")
def transformers():
    declare_torchvision_ops()
    import transformers

    return transformers


@pytest.fixture(scope="module")
def network(transformers):
    """A random SegFormer, saved by transformers below."""
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 20, 32], decoder_hidden_size=24, id2label=NAMES, label2id={"wall": 0}
    )
    return randomise(transformers.SegformerForSemanticSegmentation(config))


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    """(folder with one file, folder in parts)."""
    folders = [tmp_path_factory.mktemp("published") / name for name in ("whole", "parts")]
    for folder, size in zip(folders, ("1GB", "60KB"), strict=True):
        network.save_pretrained(folder, max_shard_size=size)
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        (folder / "README.md").write_text(CARD)
    assert len(list(folders[1].glob("*.safetensors"))) > 1
    return folders


@pytest.fixture(scope="module")
def segmenter(saved):
    return kseg.load(saved[0])


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the folder with one file, to damage."""
    return shutil.copytree(saved[0], tmp_path / "folder")


@pytest.fixture
def server(monkeypatch, tmp_path):
    credits.print_licence.cache_clear()
    transformers_processor._note.cache_clear()
    with serve(monkeypatch, tmp_path / "cache") as server:
        yield server


def put(server, repository, folder):
    """Publishes the files of a folder."""
    server.private[repository] = False
    for path in folder.iterdir():
        server.files[repository, path.name] = path.read_bytes()


def logits_of(network, images):
    """transformers' logits, resized to the images' size: [B, H, W, C]. images: uint8 [B, H, W, 3]."""
    values = torch.tensor(((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.inference_mode():
        found = torch.nn.functional.interpolate(network.eval()(values).logits, size=images.shape[1:3], mode="bilinear")
    return found.permute(0, 2, 3, 1).numpy()


def assert_same_weights(ours, theirs):
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- A folder -------------------------------------------------------------------------------------------------------------------


def test_a_saved_folder_opens_by_itself(network, segmenter, rng):
    assert segmenter.title == "segformer on test_mit_folder"
    assert segmenter.class_names == ("wall", "door (1)", "sky", "door (3)")
    assert segmenter.image_size == (64, 64)
    images = rng.integers(0, 256, (1, 64, 64, 3), dtype="uint8")
    expected = logits_of(network, images)
    found = segmenter.model.predict(images, verbose=0)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    labels = segmenter.predict(images[0]).labels
    assert (labels == expected[0].argmax(-1)).mean() > 0.999  # ties of rounding
    large = images.repeat(2, 1).repeat(3, 2)  # resized to 64x64 for the network, and its labels back
    assert segmenter.predict(large[0]).labels.shape == (128, 192)


def test_the_way_back(transformers, network, saved, segmenter, tmp_path, capsys):
    segmenter.save(tmp_path / "m.keras")
    command = ["kseg.convert", "--to=transformers", f"--checkpoint={tmp_path / 'm.keras'}", f"--output={tmp_path / 'back'}"]
    convert.main(command)
    capsys.readouterr()
    again = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back")
    ours, theirs = network.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[key].numpy().tobytes() == theirs[key].numpy().tobytes() for key in ours)
    assert {path.name for path in (tmp_path / "back").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    files = [load_file(path / "model.safetensors") for path in (saved[0], tmp_path / "back")]
    assert {key: value.tobytes() for key, value in files[0].items()} == {key: value.tobytes() for key, value in files[1].items()}
    assert again.config.id2label == {0: "wall", 1: "door (1)", 2: "sky", 3: "door (3)"}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "back", backend="pil")
    values = processor(np.full((10, 20, 3), 255, "uint8"), return_tensors="np")["pixel_values"]
    assert values.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(values[0, :, 0, 0], (1 - np.array(MEAN)) / STD, rtol=1e-5)
    with pytest.raises(KsegError, match="exists; name another file, or pass --overwrite"):
        convert.main(command)
    (tmp_path / "other").mkdir()
    with pytest.raises(KsegError, match="is no folder of transformers's, so it is not replaced"):
        convert.main([*command[:-1], f"--output={tmp_path / 'other'}", "--overwrite"])
    own = find_model_folder(tmp_path / "back").info
    assert own == find_model_folder(saved[0]).info.__class__(**{**vars(own), "class_names": segmenter.class_names})
    smp = kseg.Segmenter("segformer", class_names=["a", "b"], backbone="test_mit_folder", backbone_weights=None)
    smp.save(tmp_path / "smp.keras", image_size=64)
    with pytest.raises(KsegError, match="computes other numbers with its weights; only segformer and upernet with"):
        convert.main([*command[:2], f"--checkpoint={tmp_path / 'smp.keras'}", f"--output={tmp_path / 'no'}"])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("kind", ["convnext", "swin"])
def test_upernet_goes_there_and_back(transformers, tmp_path, kind):
    stages = ["stage1", "stage2", "stage3", "stage4"]
    if kind == "convnext":
        inner = transformers.ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 16, 32, 64], out_features=stages)
    else:
        inner = transformers.SwinConfig(depths=[1] * 4, embed_dim=8, num_heads=[1, 2, 2, 4], window_size=5, out_features=stages)
    config = transformers.UperNetConfig(backbone_config=inner, hidden_size=16, auxiliary_channels=8, id2label=NAMES)
    network = randomise(transformers.UperNetForSemanticSegmentation(config))
    network.save_pretrained(tmp_path / "saved")
    segmenter = kseg.load(tmp_path / "saved")
    assert segmenter.title == f"upernet on test_{kind}_folder"
    segmenter.save(tmp_path / "m.keras", image_size=64)
    convert.main(["kseg.convert", "--to=transformers", f"--checkpoint={tmp_path / 'm.keras'}", f"--output={tmp_path / 'back'}"])
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path / "back")
    theirs = {key: value for key, value in network.state_dict().items() if not key.startswith("auxiliary_head.")}
    found = again.state_dict()
    assert list(found) == list(theirs)
    unused = "backbone.swin.layernorm."  # of the network's classifier
    assert all(found[key].numpy().tobytes() == theirs[key].numpy().tobytes() for key in theirs if not key.startswith(unused))


def test_one_class_becomes_two(transformers, tmp_path):
    config = transformers.SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 16, 20, 32], num_labels=1)
    one = randomise(transformers.SegformerForSemanticSegmentation(config))
    one.save_pretrained(tmp_path)
    model = kseg.load(tmp_path, class_names=["road", "car"]).model
    kernel, bias = model.get_layer("segmentation_head_0").get_weights()
    assert not kernel[..., 0].any() and bias[0] == 0
    np.testing.assert_array_equal(kernel[0, 0, :, 1], one.decode_head.classifier.weight.detach().numpy()[0, :, 0, 0])


def test_every_published_size_has_its_config(transformers):
    """Backbones by their numbers, there and back; transformers reads what kseg writes."""
    models = [("segformer", name) for name in mix_transformer.VARIANTS if not name.startswith("test_")]
    sizes = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
    models += [("upernet", name) for name in (*sizes, *swin.VARIANTS) if not name.startswith("test_")]
    assert len(models) == 6 + 4 + 4
    for model, backbone in models:
        options = {"form": "transformers", "decoder_channels": 32, "drop_path": 0.3}
        options |= {"dropout": 0.2} if model == "segformer" else {}
        info = kseg.models.model_info.ModelInfo(model, ("a", "b", "c"), (512, 512), backbone, options=options)
        written = json.loads(json.dumps(transformers_config(info)))
        found, _ = transformers_info(written)
        assert (found.model, found.backbone, dict(found.options), found.class_names) == (
            model,
            backbone,
            options,
            info.class_names,
        )
        theirs = getattr(transformers, written["architectures"][0])
        config = theirs.config_class.from_dict(written)
        assert config.num_labels == 3
        inner = config.backbone_config if model == "upernet" else config
        assert inner.drop_path_rate == 0.3 and list(inner.depths) == list(written.get("backbone_config", written)["depths"])


# --- By name --------------------------------------------------------------------------------------------------------------------


def test_by_name(server, saved, segmenter, capsys):
    put(server, NVIDIA, saved[1])
    found = kseg.load(f"hf://{NVIDIA}")
    assert_same_weights(found.model, segmenter.model)
    kseg.load(f"hf://{NVIDIA}")
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2  # each once
    assert f"hf://{NVIDIA} was trained on labels whose classes count from 1 (do_reduce_labels)" in notes[0]
    assert notes[1].startswith(f"note: the weights {NVIDIA} are under the NVIDIA Source Code License for SegFormer")
    assert server.downloads == len(list(saved[1].iterdir()))  # none twice
    source = find_source(f"hf://{NVIDIA}")
    assert source.credits == Credits(NVIDIA, mix_transformer.LICENCE)
    server.status = (503, "")
    kseg.load(f"hf://{NVIDIA}@{'a' * 40}")  # from the cache alone


def test_a_run_starts_by_name(server, saved, tmp_path):
    put(server, "owner/name", saved[0])
    made = kseg.Segmenter(class_names=["sky", "lamp"], init="hf://owner/name")
    assert (made.title, made.image_size) == ("segformer on test_mit_folder", (64, 64))
    theirs = kseg.load(saved[0]).model
    ours = [model.get_layer("segmentation_head_0").get_weights() for model in (made.model, theirs)]
    np.testing.assert_array_equal(ours[0][0][..., 0], ours[1][0][..., 2])  # sky
    made.save(tmp_path / "saved")
    assert find_model_folder(tmp_path / "saved").info.credits == Credits("owner/name", "other terms, which its page names")


def test_the_card_and_the_folder_name_the_base_model(server, saved, segmenter, tmp_path, capsys):
    put(server, NVIDIA, saved[0])
    hub.main(["kseg.hub", f"--model=hf://{NVIDIA}", f"--output={tmp_path / 'shared'}"])
    assert capsys.readouterr().out.startswith("wrote ")
    info = find_model_folder(tmp_path / "shared").info
    assert (info.credits, info.class_names) == (Credits(NVIDIA, mix_transformer.LICENCE), segmenter.class_names)
    run = RunDir(tmp_path / "run")
    config = TrainConfig(
        data=DataConfig("coco", data_dir="DIR"), model="segformer", backbone="test_mit_folder", backbone_weights="none",
        model_options="form=transformers,decoder_channels=24", init=f"hf://{NVIDIA}", image_size=(64, 64),
    )  # fmt: skip
    run.create(config, [])
    run.initial_weights.write_text(json.dumps(Credits(NVIDIA, mix_transformer.LICENCE).members()))
    segmenter.save(run.model)
    write_evaluation(run.evaluation, Evaluation(segmenter.class_names, np.ones((2, 4, 4), int)), "val")
    hub.main(["kseg.hub", f"--model={run.path}", f"--output={tmp_path / 'trained'}"])
    for name in ("shared", "trained"):
        text = (tmp_path / name / "README.md").read_text()
        assert f"\nbase_model: {NVIDIA}\n" in text
        assert (
            f"Its weights start from [{NVIDIA}](https://huggingface.co/{NVIDIA}), which is under the NVIDIA Source Code" in text
        )
        assert "**That licence holds for this model, too.**" in text
    with pytest.raises(
        KsegError, match=f"--model={saved[0]}: is a folder of Hugging Face transformers; name the folder to write"
    ):
        hub.main(["kseg.hub", f"--model={saved[0]}", "--push=o/n"])


def test_what_the_hub_sends_is_checked(server, saved, tmp_path):
    put(server, "o/truncated", saved[0])
    server.files["o/truncated", "model.safetensors"] = (saved[0] / "model.safetensors").read_bytes()[:-100]
    with pytest.raises(KsegError, match=r"hf://o/truncated: model.safetensors: .*not a checkpoint that can be read safely"):
        kseg.load("hf://o/truncated")
    put(server, "o/wrong", saved[0])
    find_source("hf://o/wrong")
    server.lie = bytes(len(server.files["o/wrong", "model.safetensors"]))
    with pytest.raises(KsegError, match=r"o/wrong, .*the downloaded file differs from the Hub's hash and was removed"):
        kseg.load("hf://o/wrong")
    server.lie = None
    server.files["o/large", "config.json"] = (saved[0] / "config.json").read_bytes()
    server.files["o/large", "model.safetensors"] = bytes(2**27)
    with pytest.raises(KsegError, match=r"o/large: model.safetensors has 134217728 bytes, more than the \d+ that are expected"):
        kseg.load("hf://o/large")
    server.files["keras/deeplab", "config.json"] = (
        b'{"module": "keras_hub.src.models.deeplab_v3", "class_name": "DeepLabV3ImageSegmenter", '
        b'"registered_name": "keras_hub>DeepLabV3ImageSegmenter", "config": {}}'
    )
    with pytest.raises(KsegError, match=r"keras/deeplab: config.json: is a model of keras-hub \(DeepLabV3ImageSegmenter\)"):
        kseg.load("hf://keras/deeplab")


# --- Hostile folders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"architectures": ["BeitForSemanticSegmentation"]},
            r"transformers \(BeitForSemanticSegmentation\), .* it reads Segformer",
        ),
        ({"architectures": ["SegformerForImageClassification"]}, "which kseg does not read"),
        ({"depths": [1, 1, 1, 9]}, r"is a SegFormer of depths=\[1, 1, 1, 9\], .* which kseg does not have; it has mit_b0, "),
        ({"depths": "x"}, "which kseg does not have"),
        ({"patch_sizes": [7, 3, 3, 2]}, r"has patch_sizes=\[7, 3, 3, 2\], which kseg's SegFormer lacks"),
        ({"patch_sizes": 7}, "has patch_sizes=7, which kseg's SegFormer lacks"),
        ({"hidden_act": "relu"}, "has hidden_act=relu, which kseg's SegFormer lacks; it has gelu"),
        ({"decoder_hidden_size": 10**9}, "segformer: decoder_channels=1000000000: must be a whole number from 1 to 4096"),
        ({"drop_path_rate": 2}, "has drop_path_rate=2; expected 0 to 1"),
        ({"num_channels": 10**6}, "has num_channels=1000000; expected 1 to 64"),
        ({"id2label": {"0": "a", "2": "b"}}, "has an id2label whose ids are not 0 to 1"),
        ({"id2label": {str(i): "a" for i in range(300)}}, "has an id2label that does not name 1 to 255 classes"),
        ({"id2label": {"0": "a\nb"}}, r"class name 'a\\nb': expected 1 to 200 characters that can be printed"),
        ({"architectures": ["UperNetForSemanticSegmentation"]}, "is UPerNet on the backbone 'None', which kseg does not read"),
        (
            {"architectures": ["UperNetForSemanticSegmentation"], "backbone_config": {"model_type": "swin", "window_size": 8}},
            r"has out_features=\[\], which kseg lacks",
        ),
    ],
)
def test_what_kseg_lacks_is_named(folder, changes, says):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "auto_map": {"AutoModel": "code.Model"}, **changes}))
    with pytest.raises(KsegError, match=says) as error:
        find_source(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_mean": "x"}, "preprocessor_config.json: image_mean 'x': expected numbers"),
        ({"image_std": [0.1, 0, 0.1]}, "a positive std for each channel"),
        ({"image_mean": [0.1] * 5}, "image_mean and image_std: expected numbers for 3 channels"),
        ({"rescale_factor": 0}, "rescale_factor '0': expected a positive number"),
        ({"rescale_factor": float("nan")}, "rescale_factor 'nan': expected a positive number"),
    ],
)
def test_a_processor_that_cannot_be_is_named(folder, changes, says):
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
    with pytest.raises(KsegError, match=says):
        find_source(str(folder))


def test_the_processor_is_read(folder, capsys):
    def opened(**changes):
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
        source = find_source(str(folder))
        return source.info.normalization, source.image_size

    assert opened() == ((MEAN, STD), (64, 64))
    assert opened(size={"height": 96, "width": 32}) == ((MEAN, STD), (96, 32))
    assert opened(size={"shortest_edge": 96}) == ((MEAN, STD), None)
    assert opened(do_resize=False)[1] is None
    assert opened(do_normalize=False)[0] == ((0.0,) * 3, (1.0,) * 3)
    unscaled = opened(do_rescale=False, image_mean=[102.0, 127.5, 153.0], image_std=51.0)[0]
    np.testing.assert_allclose(unscaled, (MEAN, (0.2,) * 3))
    capsys.readouterr()
    opened(resample=3)
    assert "resizes images with PIL's filter 3; kseg resizes them bilinearly" in capsys.readouterr().err


def test_files_that_lead_out_or_do_not_fit_are_refused(saved, tmp_path):
    def read(limit=2**24):
        return read_weights(FolderFiles("name", folder), limit)[0]

    folder = shutil.copytree(saved[1], tmp_path / "folder")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    key, part = next(iter(content["weight_map"].items()))
    assert set(read()) == set(content["weight_map"])
    for place in ("../x.safetensors", "/etc/passwd", "model-a/../../x.safetensors", "other.safetensors", 3, ""):
        index.write_text(json.dumps({"weight_map": {**content["weight_map"], key: place}}))
        with pytest.raises(KsegError, match=r"names a file .*; expected parts like model-00001-of-00002.safetensors"):
            read()
    for text in ("", "[]", '{"weight_map": []}', "[" * 10**5):
        index.write_text(text)
        with pytest.raises(KsegError, match="is no index of weights, or a damaged one"):
            read()
    index.write_text(json.dumps({"weight_map": {**content["weight_map"], "more": part}}))
    with pytest.raises(KsegError, match=f"{part}: does not fit .*'more': the index names it, the file lacks it"):
        read()
    index.write_text(json.dumps({"weight_map": {name: place for name, place in content["weight_map"].items() if name != key}}))
    with pytest.raises(KsegError, match="the index does not name it"):
        read()
    index.write_text(json.dumps(content))
    with pytest.raises(KsegError, match=r"has \d+ bytes; the model that config.json describes has at most"):
        read(limit=70_000)  # a part fits, all parts do not
    (folder / part).rename(tmp_path / "outside.safetensors")
    (folder / part).symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(KsegError, match="is a link out of the folder, and is not followed"):
        read()


def test_bin_files_are_read_without_code(network, segmenter, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(KsegError, match=r"has no weights: neither model.safetensors nor pytorch_model.bin"):
        kseg.load(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    assert_same_weights(kseg.load(folder).model, segmenter.model)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Code(tmp_path / "ran")))
    with pytest.raises(KsegError, match="not a checkpoint that can be read safely") as error:
        kseg.load(folder)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


class _Code:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_tensor_that_is_missing_or_left_over_is_named(saved, folder):
    from safetensors.numpy import save_file

    state = load_file(saved[0] / "model.safetensors")
    key = "decode_head.classifier.bias"
    for changed, says in (
        ({name: value for name, value in state.items() if name != key}, "segmentation_head_0 has weight in the checkpoint"),
        ({**state, "extra.weight": state[key]}, "the model has no place for extra"),
    ):
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(KsegError, match=says):
            kseg.load(folder)
    save_file({name: value.astype("float16") for name, value in state.items()}, folder / "model.safetensors")
    np.testing.assert_allclose(kseg.load(folder).model.get_layer("segmentation_head_0").get_weights()[1], state[key], atol=1e-3)
