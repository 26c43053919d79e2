"""Makes torchvision import beside a CPU-only torch. Imports no pytest: benchmarks use it where there is none."""


def declare_torchvision_ops() -> None:
    """Lets `import torchvision` succeed beside a CPU-only torch, where its compiled operators cannot load.

    timm and segmentation_models_pytorch import torchvision and call none of these operators.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declare_torchvision_ops.library = library  # the declarations live as long as this object
