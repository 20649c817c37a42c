"""The table of named networks, family by family.

Reading it imports neither JAX nor Flax.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxrobust.networks.blueprint import Blueprint
from jaxrobust.networks.entry import Entry, Published, WeightSource
from jaxrobust.porting import recipes
from jaxrobust.porting.recipes import Recipe
from jaxrobust.preprocessing import Preprocessing

# Numbers of convolutions in the blocks of VGG, columns A, B, D and E of its paper's table 1.
_VGG = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

# The two-group AlexNet of 2012, as Caffe and convnets-keras have it.
_ALEXNET_2012 = {
    "image_size": (227, 227),
    "conv1_padding": 0,
    "widths": (96, 256, 384, 384, 256),
    "groups": 2,
    "dropout_before": ("fc7", "fc8"),
}


def entries() -> Iterator[Entry]:
    """All named networks, the package's own first."""
    yield _glyphs()
    yield from _torchvision()
    yield from _caffe()
    yield _cheney2017()
    yield from _keras()
    yield from _cifar()


def _glyphs() -> Entry:
    blueprint = Blueprint(
        name="alexnet-glyphs",
        definition="alexnet",
        configuration={
            "classes": 100,
            "image_size": (64, 64),
            "conv1_kernel": 5,
            "conv1_stride": 2,
            "conv1_padding": 2,
            "widths": (24, 48, 96, 96, 64),
            "dense_width": 512,
            "dropout": 0.2,
        },
        preprocessing=Preprocessing(size=(64, 64), mean=(127.5,), std=(64.0,)),
    )
    return Entry(blueprint, "a small AlexNet, trained on glyphs", 820_020)


# torchvision: what its files are called, and what its documentation reports.


def _torchvision() -> Iterator[Entry]:
    yield _of_torchvision(
        *("alexnet", "alexnet", {}, "AlexNet without groups or norm", 61_100_840),
        *(recipes.torchvision_alexnet(), "alexnet-owt-7be5be79", 56.522, 79.066),
    )
    for depth, batch_normalised, parameters, start, top1, top5 in (
        (11, False, 132_863_336, "8a719046", 69.020, 88.628),
        (11, True, 132_868_840, "6002323d", 70.370, 89.810),
        (13, False, 133_047_848, "19584684", 69.928, 89.246),
        (13, True, 133_053_736, "abd245e5", 71.586, 90.374),
        (16, False, 138_357_544, "397923af", 71.592, 90.382),
        (16, True, 138_365_992, "6c64b313", 73.360, 91.516),
        (19, False, 143_667_240, "dcbb9e9d", 72.376, 90.876),
        (19, True, 143_678_248, "c79401a0", 74.218, 91.842),
    ):
        name = f"vgg{depth}_bn" if batch_normalised else f"vgg{depth}"
        yield _of_torchvision(
            *(name, "vgg"),
            {"convolutions": _VGG[depth], "batch_normalised": batch_normalised},
            f"VGG-{depth}{', batch-normalised' if batch_normalised else ''}",
            *(parameters, recipes.torchvision_vgg(_VGG[depth], batch_normalised=batch_normalised)),
            *(f"{name}-{start}", top1, top5),
        )
    for version, fires, parameters, start, top1, top5 in (
        ("1.0", (3, 4, 5, 7, 8, 9, 10, 12), 1_248_424, "b66bff10", 58.092, 80.420),
        ("1.1", (3, 4, 6, 7, 9, 10, 11, 12), 1_235_496, "b8a52dc0", 58.178, 80.624),
    ):
        name = f"squeezenet{version.replace('.', '_')}"
        yield _of_torchvision(
            *(name, "squeezenet", {"version": version}, f"SqueezeNet {version}", parameters),
            *(recipes.torchvision_squeezenet(fires), f"{name}-{start}", top1, top5),
        )
    for depth, blocks, parameters, start, top1, top5 in (
        (18, (2, 2, 2, 2), 11_689_512, "f37072fd", 69.758, 89.078),
        (34, (3, 4, 6, 3), 21_797_672, "b627a593", 73.314, 91.420),
        (50, (3, 4, 6, 3), 25_557_032, "0676ba61", 76.130, 92.862),
    ):
        yield _of_torchvision(
            *(f"resnet{depth}", "resnet", {"blocks": blocks, "bottleneck": depth >= 50}),
            *(f"ResNet-{depth}", parameters, recipes.pytorch()),
            *(f"resnet{depth}-{start}", top1, top5),
        )


def _of_torchvision(
    name: str,
    definition: str,
    configuration: Mapping[str, Any],
    summary: str,
    parameters: int,
    recipe: Recipe,
    file: str,
    top1: float,
    top5: float,
) -> Entry:
    preprocessing = Preprocessing(
        size=(224, 224),
        resize=256,
        mode="shorter",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    )
    weights = WeightSource(
        publisher="torchvision",
        file=f"torchvision's {file}.pth (IMAGENET1K_V1)",
        format=".pth",
        recipe=recipe,
        url=f"https://download.pytorch.org/models/{file}.pth",
        checksum=f"sha256:{file.rsplit('-', 1)[1]}",
    )
    blueprint = Blueprint(name, definition, configuration, preprocessing, "imagenet")
    published = Published(top1, top5, "torchvision's documentation")
    return Entry(blueprint, summary, parameters, weights, published)


# Caffe: images squashed to 256×256, the centre in the order blue, green, red, without their mean.


def _caffe() -> Iterator[Entry]:
    flattened = {"fc6": (256, 6, 6)}
    yield _of_caffe(
        *("alexnet-caffe", "alexnet"),
        _ALEXNET_2012
        | {"response_norm": "before pooling", "norm_alpha": 1e-4 / 5, "norm_offset": 1.0},
        *("AlexNet of 2012, norm then pool", 60_965_224),
        WeightSource(
            publisher="Caffe",
            file="bvlc_alexnet.caffemodel of Caffe's model zoo",
            format=".caffemodel",
            recipe=recipes.caffe(flattened),
            url="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
            checksum="sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        ),
        Published(57.1, 80.2, "readme of bvlc_alexnet"),
        # The averages of Caffe's mean image, which this network was trained with.
        mean=(104.00698793, 116.66876762, 122.67891434),
    )
    for version, padding, parameters, published in (
        ("1.0", 1, 1_248_424, Published(57.5, 80.3, "arXiv 1602.07360")),
        ("1.1", 0, 1_235_496, None),
    ):
        folder = f"SqueezeNet_v{version}"
        file = f"squeezenet_v{version}.caffemodel"
        yield _of_caffe(
            *(f"squeezenet-{version}-caffe", "squeezenet"),
            {"version": version, "conv10_padding": padding},
            *(f"SqueezeNet {version}", parameters),
            WeightSource(
                publisher="its authors",
                file=f"the authors' {file}; or .npz with the same names (conv1/w, conv1/b, ...)",
                format=".caffemodel",
                recipe=recipes.caffe(),
                url=f"https://github.com/forresti/SqueezeNet/raw/master/{folder}/{file}",
            ),
            published,
        )
    yield _of_caffe(
        *("googlenet-caffe", "googlenet", {}, "GoogLeNet", 6_998_552),
        WeightSource(
            publisher="Caffe",
            file="bvlc_googlenet.caffemodel of Caffe's model zoo",
            format=".caffemodel",
            # The two heads that help training, and have no part in the answer.
            recipe=recipes.caffe(ignored=("loss1/*", "loss2/*")),
            url="http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
            checksum="sha1:405fc5acd08a3bb12de8ee5e23a96bec22f08204",
        ),
        Published(68.7, 88.9, "readme of bvlc_googlenet"),
        size=224,
    )
    digits = Preprocessing(size=(28, 28), mode="squash", channels="grey", std=(256.0,))
    yield Entry(
        Blueprint("lenet5-caffe", "lenet", {}, digits, "digits"),
        *("LeNet-5, for the digits of MNIST", 431_080),
        WeightSource(
            publisher="Caffe",
            file="a LeNet-5 trained in Caffe, such as caffe_lenet5_original.caffemodel of "
            "Dynamic-Network-Surgery",
            format=".caffemodel",
            recipe=recipes.caffe({"ip1": (50, 4, 4)}),
        ),
    )


def _of_caffe(
    name: str,
    definition: str,
    configuration: Mapping[str, Any],
    summary: str,
    parameters: int,
    weights: WeightSource,
    published: Published | None,
    *,
    size: int = 227,
    mean: tuple[float, ...] = (104.0, 117.0, 123.0),
) -> Entry:
    preprocessing = Preprocessing(
        size=(size, size), resize=256, mode="squash", channels="bgr", mean=mean, small="pad"
    )
    blueprint = Blueprint(name, definition, configuration, preprocessing, "imagenet")
    return Entry(blueprint, summary, parameters, weights, published)


# Keras.


def _cheney2017() -> Entry:
    preprocessing = Preprocessing(
        size=(227, 227), resize=256, mode="squash", mean=(123.68, 116.779, 103.939)
    )
    configuration = _ALEXNET_2012 | {
        "response_norm": "after pooling",
        "norm_alpha": 1e-4,
        "norm_offset": 2.0,
    }
    weights = WeightSource(
        publisher="convnets-keras",
        file="alexnet_weights.h5 of convnets-keras",
        format=".h5",
        recipe=recipes.CONVNETS_KERAS_ALEXNET,
        url="http://files.heuritech.com/weights/alexnet_weights.h5",
    )
    return Entry(
        Blueprint("alexnet-cheney2017", "alexnet", configuration, preprocessing, "imagenet"),
        *("the study's, pool then norm", 60_965_224, weights),
        Published(57.06, 79.91, "readme of convnets-keras"),
    )


def _keras() -> Iterator[Entry]:
    # Keras reports the accuracy of a single centre crop, of images resized as VGG's authors do.
    preprocessing = Preprocessing(
        size=(224, 224),
        resize=256,
        mode="shorter",
        channels="bgr",
        mean=(103.939, 116.779, 123.68),
    )
    for depth, parameters, md5, top1, top5 in (
        (16, 138_357_544, "64373286793e3c8b2b4e3219cbf3544b", 71.268, 90.050),
        (19, 143_667_240, "cbe5617147190e668d6c5d5026f83318", 71.256, 89.988),
    ):
        name = f"vgg{depth}-keras"
        file = f"vgg{depth}_weights_tf_dim_ordering_tf_kernels.h5"
        weights = WeightSource(
            publisher="Keras",
            file=f"{file} of Keras Applications",
            format=".h5",
            recipe=recipes.keras_vgg(_VGG[depth]),
            url=f"https://storage.googleapis.com/tensorflow/keras-applications/vgg{depth}/{file}",
            checksum=f"md5:{md5}",
        )
        configuration = {"convolutions": _VGG[depth]}
        yield Entry(
            Blueprint(name, "vgg", configuration, preprocessing, "imagenet"),
            *(f"VGG-{depth}, its authors' weights", parameters, weights),
            Published(top1, top5, "readme of keras-applications"),
        )


# CIFAR-10.


def _cifar() -> Iterator[Entry]:
    preprocessing = Preprocessing(
        size=(32, 32),
        mode="squash",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    )
    for depth, parameters, start, top1 in (
        (20, 269_722, "12fca82f", 91.73),
        (32, 464_154, "d509ac18", 92.63),
        (44, 658_586, "014dd654", 93.10),
        (56, 853_018, "4bfd9763", 93.39),
    ):
        file = f"resnet{depth}-{start}.th"
        folder = "akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
        weights = WeightSource(
            publisher="Y. Idelbayev",
            file=f"{file} of pytorch_resnet_cifar10",
            format=".th",
            recipe=recipes.pytorch(),
            url=f"https://github.com/{folder}/{file}",
            checksum=f"sha256:{start}",
        )
        blocks: Sequence[int] = ((depth - 2) // 6,) * 3
        yield Entry(
            Blueprint(
                f"resnet{depth}-cifar", "cifar_resnet", {"blocks": blocks}, preprocessing, "cifar10"
            ),
            *(f"ResNet-{depth} for CIFAR-10", parameters, weights),
            Published(top1, None, "readme of pytorch_resnet_cifar10"),
        )
