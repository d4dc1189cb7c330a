"""ResNet, DenseNet, Inception, VGG and MobileNet, at any image size and batch.

As in Keras applications: ResNet v1 strides in the first convolution of a block. ResNet-18, which
Keras lacks, is that of He et al. (CVPR 2016), with projections where the shape changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.dnn.convolutions import Convnet, Image
from sim.dnn.gemms import Dnn
from sim.text.pick import pick

# Blocks of each stage, and the kernels of a block.
RESNETS = {
    18: ((2, 2, 2, 2), (3, 3)),
    50: ((3, 4, 6, 3), (1, 3, 1)),
    101: ((3, 4, 23, 3), (1, 3, 1)),
    152: ((3, 8, 36, 3), (1, 3, 1)),
}
DENSENETS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
# Channels and convolutions between poolings.
VGG_16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Channels and stride after each depthwise convolution.
MOBILENET = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def resnet(depth: int, image: int = 224, batch: int = 1) -> Dnn:
    """ResNet v1 of 18, 50, 101 or 152 layers."""
    stages, kernels = pick(RESNETS, depth, "ResNet of depth")
    net = Convnet(f"resnet{depth}", image, batch)
    x = _stem(net)
    for stage, blocks in enumerate(stages):
        for b in range(blocks):
            stride = 2 if stage > 0 and b == 0 else 1
            x = _residual(net, f"conv{stage + 2}_block{b + 1}", x, 64 << stage, stride, kernels)
    net.dense("predictions", net.mean(x), 1000)
    return net.dnn()


def _stem(net: Convnet) -> Image:
    x = net.conv("conv1", net.pointwise(net.input, 1), 64, 7, 2, pad=3)
    return net.pool(net.pointwise(x, 3), 3, 2, pad=1)


def _residual(
    net: Convnet, name: str, x: Image, channels: int, stride: int, kernels: Sequence[int]
) -> Image:
    """A block and its shortcut; of three convolutions the last widens fourfold."""
    shortcut, y, last = x, x, len(kernels)
    wide = 4 * channels if last > 2 else channels
    if stride > 1 or x.channels != wide:
        shortcut = net.pointwise(net.conv(f"{name}_0", x, wide, 1, stride), 1)
    for place, kernel in enumerate(kernels, 1):
        size = wide if place == last else channels
        y = net.conv(f"{name}_{place}", y, size, kernel, stride if place == 1 else 1)
        y = net.pointwise(y, 1 if place == last else 2)
    return net.pointwise(net.add(shortcut, y), 1)


def densenet(depth: int, image: int = 224, batch: int = 1) -> Dnn:
    """DenseNet of 121, 169 or 201 layers, growing by 32 channels a layer."""
    stages = pick(DENSENETS, depth, "DenseNet of depth")
    net = Convnet(f"densenet{depth}", image, batch)
    x = _stem(net)
    for stage, blocks in enumerate(stages):
        for b in range(blocks):
            name = f"conv{stage + 2}_block{b + 1}"
            y = net.pointwise(net.conv(f"{name}_1", net.pointwise(x, 2), 128, 1), 2)
            x = net.concat(x, net.conv(f"{name}_2", y, 32, 3))
        if stage < 3:
            x = net.conv(f"pool{stage + 2}", net.pointwise(x, 2), x.channels // 2, 1)
            x = net.pool(x, 2, 2)
    net.dense("predictions", net.mean(net.pointwise(x, 2)), 1000)
    return net.dnn()


def inception_v3(image: int = 299, batch: int = 1) -> Dnn:
    """Inception-v3."""
    net = Convnet("inception_v3", image, batch)

    def conv(name: str, x: Image, *steps: tuple[int, int | tuple[int, int], int]) -> Image:
        for index, (channels, kernel, stride) in enumerate(steps):
            pad = 0 if stride > 1 else None
            x = net.pointwise(net.conv(f"{name}_{index}", x, channels, kernel, stride, pad), 2)
        return x

    x = conv("stem_a", net.input, (32, 3, 2))
    x = net.pointwise(net.conv("stem_b", x, 32, 3, pad=0), 2)
    x = net.pool(conv("stem_c", x, (64, 3, 1)), 3, 2)
    x = conv("stem_d", x, (80, 1, 1))
    x = net.pool(net.pointwise(net.conv("stem_e", x, 192, 3, pad=0), 2), 3, 2)
    for block, pooled in enumerate((32, 64, 64)):
        name = f"mixed{block}"
        x = net.concat(
            conv(f"{name}_1x1", x, (64, 1, 1)),
            conv(f"{name}_5x5", x, (48, 1, 1), (64, 5, 1)),
            conv(f"{name}_3x3", x, (64, 1, 1), (96, 3, 1), (96, 3, 1)),
            conv(f"{name}_pool", net.pool(x, 3, 1, None), (pooled, 1, 1)),
        )
    x = net.concat(
        conv("mixed3_3x3", x, (384, 3, 2)),
        conv("mixed3_3x3_twice", x, (64, 1, 1), (96, 3, 1), (96, 3, 2)),
        net.pool(x, 3, 2),
    )
    across, down = (1, 7), (7, 1)
    for block, c in enumerate((128, 160, 160, 192)):
        name = f"mixed{block + 4}"
        x = net.concat(
            conv(f"{name}_1x1", x, (192, 1, 1)),
            conv(f"{name}_7x7", x, (c, 1, 1), (c, across, 1), (192, down, 1)),
            conv(
                f"{name}_7x7_twice",
                x,
                (c, 1, 1),
                (c, down, 1),
                (c, across, 1),
                (c, down, 1),
                (192, across, 1),
            ),
            conv(f"{name}_pool", net.pool(x, 3, 1, None), (192, 1, 1)),
        )
    x = net.concat(
        conv("mixed8_3x3", x, (192, 1, 1), (320, 3, 2)),
        conv("mixed8_7x7", x, (192, 1, 1), (192, across, 1), (192, down, 1), (192, 3, 2)),
        net.pool(x, 3, 2),
    )
    for block in (9, 10):
        name = f"mixed{block}"
        single = conv(f"{name}_1x1", x, (320, 1, 1))
        y = conv(f"{name}_3x3", x, (384, 1, 1))
        once = net.concat(
            conv(f"{name}_3x3_a", y, (384, (1, 3), 1)), conv(f"{name}_3x3_b", y, (384, (3, 1), 1))
        )
        y = conv(f"{name}_3x3_twice", x, (448, 1, 1), (384, 3, 1))
        twice = net.concat(
            conv(f"{name}_3x3_twice_a", y, (384, (1, 3), 1)),
            conv(f"{name}_3x3_twice_b", y, (384, (3, 1), 1)),
        )
        x = net.concat(
            single, once, twice, conv(f"{name}_pool", net.pool(x, 3, 1, None), (192, 1, 1))
        )
    net.dense("predictions", net.mean(x), 1000)
    return net.dnn()


def vgg_16(image: int = 224, batch: int = 1) -> Dnn:
    """VGG-16 with its three dense layers."""
    net = Convnet("vgg16", image, batch)
    x = net.input
    for stage, (channels, convolutions) in enumerate(VGG_16):
        for c in range(convolutions):
            x = net.conv(f"block{stage + 1}_conv{c + 1}", x, channels, 3)
        x = net.pool(x, 2, 2)
    for name, units in (("fc1", 4096), ("fc2", 4096), ("predictions", 1000)):
        x = net.dense(name, x, units)
    return net.dnn()


def mobilenet(image: int = 224, batch: int = 1) -> Dnn:
    """MobileNet v1 of full width.  Not modelled: depthwise convolutions, 3 % of its operations."""
    net = Convnet("mobilenet", image, batch)
    x = net.pointwise(net.conv("conv1", net.input, 32, 3, 2), 2)
    for index, (channels, stride) in enumerate(MOBILENET):
        x = net.pointwise(net.pool(x, 3, stride, None, "depthwise"), 2)
        x = net.pointwise(net.conv(f"pointwise_{index + 1}", x, channels, 1), 2)
    net.dense("predictions", net.mean(x), 1000)
    return net.dnn()
