"""Published numbers of SOSA (arXiv 2203.11540): its artifact's simulator's, and its figures'.

Integers are the simulator's; those marked REBUILT come from a re-implementation of its rules whose
throughput is the figures' to every printed digit.
"""

from __future__ import annotations

# The DNNs of the main table.
TEN = (
    "bert_medium",
    "bert_base",
    "bert_large",
    "densenet121",
    "densenet169",
    "densenet201",
    "inception_v3",
    "resnet50",
    "resnet101",
    "resnet152",
)

# S1. By DNN on 256 pods of 32 x 32: cycles, last main round, last round of additions, stalls,
# tile ops.
RUNS = {
    "resnet50": (35442, 1019, 1025, 1637, 241472),
    "bert_medium": (30120, 936, 944, 204, 112768),
    "bert_base": (87185, 2378, 2388, 10798, 375840),
    "bert_large": (300763, 6998, 7008, 73639, 1327872),
    "densenet121": (65034, 1967, 1973, 0, 156376),
    "densenet169": (96197, 2920, 2929, 0, 186696),
    "densenet201": (119803, 3629, 3638, 0, 238248),
    "resnet101": (68541, 2022, 2028, 1637, 463424),
    "resnet152": (101112, 3009, 3015, 1637, 683200),
}
REBUILT = ("bert_large", "densenet121", "densenet169", "densenet201", "resnet101", "resnet152")

# By pods of 32 x 32 and interconnect, BERT-medium: cycles, last main round.
ROUTED = {
    (32, "butterfly_1"): (121999, 3744),
    (32, "butterfly_2"): (122229, 3736),
    (32, "butterfly_4"): (122555, 3736),
    (32, "butterfly_8"): (122881, 3736),
    (32, "crossbar"): (121251, 3736),
    (32, "benes_copy"): (149826, 3736),
    (64, "butterfly_1"): (65794, 2040),
    (64, "butterfly_2"): (66712, 2056),
    (64, "butterfly_4"): (67102, 2056),
    (64, "butterfly_8"): (67492, 2056),
    (64, "crossbar"): (65347, 2056),
    (64, "benes_copy"): (99142, 2056),
    (128, "butterfly_1"): (39994, 1256),
    (128, "butterfly_2"): (40944, 1272),
    (128, "butterfly_4"): (41366, 1272),
    (256, "butterfly_1"): (28818, 904),
    (256, "butterfly_4"): (31022, 952),
}

# By size of a square array, pods and DNN: the same.
SQUARES = {
    (64, 128, "bert_medium"): (35926, 578),
    (128, 32, "bert_medium"): (44728, 452),
    (256, 8, "bert_medium"): (44038, 310),
    (512, 1, "bert_medium"): (74701, 248),
    (64, 128, "resnet50"): (29181, 436),
    (128, 32, "resnet50"): (43402, 347),
    (256, 8, "resnet50"): (58960, 248),
    (512, 1, "resnet50"): (185812, 369),
}

# Tenants on 256 pods of 32 x 32: cycles, last main round, last round of additions, stalls.
TENANTS = {
    ("resnet152",): (101112, 3009, 3015, 1637),
    ("bert_medium",): (25478, 760, 768, 204),
    ("bert_medium", "resnet152"): (118525, 3529, 3535, 1841),
}

# S2. By rows, columns, pods: effective TOPS at 400 W of the ten DNNs, then their harmonic mean.
AT_400_W = {
    (16, 16, 512): (202.8, 236.8, 255.1, 145.6, 122.1, 113.6, 263.0, 313.4, 315.0, 316.3, 198.9),
    (32, 32, 256): (286.9, 331.3, 339.7, 233.5, 185.6, 188.5, 430.8, 625.7, 630.3, 635.2, 317.4),
    (64, 64, 128): (172.8, 236.6, 243.9, 131.7, 105.9, 108.6, 294.2, 545.9, 480.8, 474.1, 200.9),
    (128, 128, 32): (177.5, 268.6, 312.0, 135.9, 111.3, 110.1, 287.6, 469.5, 389.8, 381.3, 205.0),
    (256, 256, 8): (208.4, 262.3, 360.7, 108.2, 93.0, 91.2, 222.3, 399.4, 376.2, 376.0, 183.0),
    (512, 512, 1): (266.0, 238.2, 296.7, 109.8, 106.6, 117.4, 184.3, 274.4, 387.1, 433.3, 191.3),
    (20, 32, 256): (
        286.9,
        388.4,
        418.6,
        260.4,
        222.5,
        225.6,
        425.3,
        518.4,
        515.8,
        516.7,
        340.5,
    ),  # revision of 2022
}

# S3. TOPS/W over rows and columns: the best size, its value and pods; then squares, and 20 x 32.
OPTIMA = {"CNN": (66, 32, 1.706, 256), "BERT": (20, 128, 0.963, None), "Mix": (20, 32, 1.100, 479)}
SQUARE_SIZES = (8, 16, 32, 64, 128, 256)
SQUARE_PODS = (2153, 960, 390, 141, 45, 13)
SQUARE_VALUES = {
    "CNN": (0.670, 1.138, 1.623, 1.600, 1.098, 0.585),
    "BERT": (0.580, 0.799, 0.779, 0.529, 0.302, 0.158),
    "Mix": (0.622, 0.939, 1.052, 0.795, 0.474, 0.249),
}
AT_20_X_32 = {"CNN": 1.341, "BERT": 0.932}
IMAGES = (224, 256, 299)
LENGTHS = (10, 20, 40, 60, 80, 100, 200, 300, 400, 500)

# S4. By interconnect and pods: harmonic mean of the ten DNNs, TOPS as simulated, and peak
# power, W.
POD_COUNTS = (32, 64, 128, 256)
INTERCONNECTS = {
    "butterfly_1": ((52.30, 94.50, 154.58, 188.34), (30.6, 61.5, 123.7, 248.9)),
    "butterfly_2": ((53.48, 97.49, 162.34, 206.46), (31.5, 63.6, 128.7, 260.2)),
    "butterfly_4": ((53.50, 97.51, 163.75, 210.54), (33.2, 67.9, 138.6, 282.8)),
    "butterfly_8": ((53.48, 97.48, 163.54, 210.47), (36.8, 76.4, 158.4, 328.0)),
    "crossbar": ((53.68, 98.15, 166.27, 213.83), (35.4, 82.0, 209.2, 599.3)),
    "benes_copy": ((44.04, 66.86, 96.03, 112.71), (33.2, 67.9, 138.6, 282.8)),
    "bus": ((1.70, 1.70, 1.70), (29.7, 59.4, 118.8)),
}

# S5. By rows of X in a tile: the same mean on 256 pods of 32 x 32; 512 stands for uncut.
PARTITIONS = {8: 103.6, 16: 168.6, 32: 206.5, 48: 167.6, 64: 139.6, 128: 85.7, 512: 41.9}

# S6. By batch: TOPS of ResNet-152 and of BERT-medium alone, and of both together.
TOGETHER = {
    1: (413.14, 206.06, 396.73),
    2: (478.64, 288.55, 465.32),
    4: (496.44, 387.47, 456.41),
    8: (503.49, 481.24, 455.74),
}

# S7. By KiB of a bank: throughput of ResNet-152, batch 8, over that with large banks; MiB from
# memory.
BANKS = {
    64: (0.711, 583.0),
    128: (0.880, 234.0),
    256: (1.0, 58.3),
    512: (1.0, 58.0),
    1024: (1.0, 57.8),
}
