"""The three stages of a search, an epoch at a time: operations, channels, training from scratch.

After each epoch everything is on the disk: a run that was killed loses at most the one it was in.
Source: U-Boost NAS (arXiv 2203.12412). Its decisions are trained on the training images too.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sim.dnn.found import EDGES, OPERATIONS, OUTPUT, Cell, Found, alive
from sim.learn.durable import load_checkpoint, save_checkpoint
from sim.learn.images import Images, batch_of
from sim.learn.nas import network as networks
from sim.learn.nas.choice import Width
from sim.learn.nas.flexible import Rule, adapt, saved_bytes
from sim.learn.nas.network import Network
from sim.learn.nas.plan import STAGES, Plan
from sim.learn.nas.state import arrays_of, load
from sim.text.replacing import replacing

COLUMNS = (
    "stage",
    "epoch",
    "temperature",
    "loss",
    "cross_entropy",
    "train_accuracy",
    "ms",
    "utilisation",
    "test_accuracy",
    "flop",
    "saved_bytes",
    "weight_bytes",
    "cpu_s",
    "widths",
    "allocated",
)
Row = dict[str, Any]
RULE = Rule()
Progress = Callable[[float, str], None]  # share that is done, what was done


class Search:
    """The files of a run, and what makes them.  ValueError: the folder is of another run."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        images: Images,
        rule: Rule = RULE,
        operations: list[str] | None = None,
        progress: Progress = lambda share, label: None,
        device: str = "cpu",
    ) -> None:
        """`operations` of another search stand in for the first stage."""
        self.device = device
        self.folder, self.plan, self.images, self.rule = folder, plan, images, rule
        self.progress = progress
        self.given = operations
        self.warnings: list[str] = []
        self.watch: Callable[[Row], None] = lambda row: None  # told each epoch that is made
        if len(images.x) < plan.batch * 2:
            raise ValueError(f"{len(images.x)} images are less than two batches of {plan.batch}")
        for part, y in (("training", images.y), ("test", images.y_test)):
            if absent := sorted({*range(images.classes)} - {*y.tolist()}):
                raise ValueError(f"class {absent[0]} is not among the {len(y)} {part} images")
        stated = {"plan": plan.data(), "rule": rule._asdict(), "operations": operations}
        file = folder / "plan.json"
        if not file.exists():
            _write(file, stated)
        elif (held := json.loads(file.read_text(encoding="utf-8"))) != stated:
            raise ValueError(
                f"{folder} holds a run of another plan ({_difference(held, stated)}); give another "
                "folder, or remove it"
            )

    def log(self) -> list[Row]:
        """Of each epoch of each stage that there is."""
        return log_of(self.folder)

    # Stages.

    def operations(self) -> list[str]:
        """The likeliest operation of each edge."""
        if self.given is not None:
            return self.given
        plan, file = self.plan, self.folder / "operations.json"
        if not file.exists():
            torch.manual_seed(_seed(plan.seed, 0))
            net = networks.with_all_operations(
                plan.image, self.images.classes, plan.stem, plan.pools
            )
            rows = self._epochs("operations", net, searching=True)
            choices = net.choices  # each once, in the order of the edges
            logits = [choice.alpha.tolist() for choice in choices.values()]
            chosen, changed = connected(logits)
            _write(
                file,
                {
                    "operations": chosen,
                    "logits": logits,
                    "changed": changed,
                    "cpu_s": sum(row["cpu_s"] for row in rows),
                },
            )
        made = json.loads(file.read_text(encoding="utf-8"))
        self.warnings += made["changed"]
        return list(made["operations"])

    def channels(self, operations: list[str]) -> Found:
        """The likeliest width of each convolution."""
        plan, file = self.plan, self.folder / "channels.json"
        name = self.folder.name
        if not file.exists():
            torch.manual_seed(_seed(plan.seed, 1))
            rng = np.random.default_rng(plan.seed)
            end = plan.start if plan.flexible else plan.last
            count = (end - plan.first) // plan.step + 1

            def width(name: str) -> Width:
                if plan.flexible:
                    return Width(plan.first, plan.step, count, torch.tensor([(count - 1) / 2]))
                at = np.arange(count) - rng.uniform(0, count - 1)
                bell = np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi)  # the authors' beginning
                logits = torch.tensor(bell, dtype=torch.float32)
                return Width(plan.first, plan.step, count, logits)

            net = networks.with_widths(
                plan.image,
                self.images.classes,
                plan.stem,
                plan.pools,
                [operations] * len(plan.pools),
                width,
            )
            rows = self._epochs("channels", net, searching=True)
            found = net.found(name)
            _write(
                file,
                {
                    "widths": [dict(cell.widths) for cell in found.cells],
                    "cpu_s": sum(row["cpu_s"] for row in rows),
                    "flop": sum(row["flop"] for row in rows),
                    "peak_bytes": max(row["saved_bytes"] + row["weight_bytes"] for row in rows),
                    "mean_bytes": sum(row["saved_bytes"] + row["weight_bytes"] for row in rows)
                    / len(rows),
                },
            )
        widths = json.loads(file.read_text(encoding="utf-8"))["widths"]
        cells = [Cell(tuple(operations), each, pool) for each, pool in zip(widths, plan.pools)]
        return Found(name, plan.image, self.images.classes, plan.stem, tuple(cells))

    def train(self, found: Found) -> float:
        """Test accuracy of the found network, trained from scratch."""
        file = self.folder / "result.json"
        if not file.exists():
            torch.manual_seed(_seed(self.plan.seed, 2))
            net = networks.of_found(found)
            rows = self._epochs("training", net, searching=False)
            _write(
                file,
                {
                    "accuracy": rows[-1]["test_accuracy"],
                    "test_images": len(self.images.x_test),
                    "parameters": sum(each.numel() for each in net.weights()),
                    "cpu_s": sum(row["cpu_s"] for row in rows),
                },
            )
        return float(json.loads(file.read_text(encoding="utf-8"))["accuracy"])

    # Epochs.

    def _epochs(self, stage: str, net: Network, searching: bool) -> list[Row]:
        """All epochs of a stage, the finished ones from its checkpoint; `net` is trained."""
        plan, at = self.plan, STAGES.index(stage)
        rate, decay = (plan.rate, plan.decay) if searching else (plan.final_rate, plan.final_decay)
        steps: dict[str, torch.optim.Optimizer] = {
            "weights": torch.optim.SGD(
                net.weights(), rate, plan.momentum, weight_decay=decay, nesterov=not searching
            )
        }
        if searching:
            alphas = [choice.alpha for choice in net.choices.values()]
            steps["decisions"] = torch.optim.Adam(alphas, plan.decision_rate)
        file = self.folder / f"{stage}.npz"
        net.to(self.device)
        rows: list[Row] = []
        if file.exists():
            arrays, state = load_checkpoint(file)
            load(net, steps, arrays)
            rows = state["rows"]
        done, total = sum(plan.epochs[:at]), sum(plan.epochs)
        for epoch in range(len(rows), plan.epochs[at]):
            self.progress((done + epoch) / total, f"{stage}, epoch {epoch + 1}")
            fall = (1 + math.cos(math.pi * epoch / plan.epochs[at])) / 2
            if not searching:
                _rate(steps["weights"], rate * fall)
            elif plan.flexible and stage == "channels":
                _rate(steps["decisions"], self.rule.rate * fall)
            rows.append(self._guarded(stage, epoch, net, steps))
            save_checkpoint(file, arrays_of(net, steps), {"rows": rows})
            self._log(stage, rows)
            self.watch(rows[-1])
        return rows

    def _guarded(
        self, stage: str, epoch: int, net: Network, steps: dict[str, torch.optim.Optimizer]
    ) -> Row:
        """An epoch; what stops it is said in one line, and the last checkpoint stays."""
        kept = f"the epochs before are kept in {self.folder}"
        try:
            return self._epoch(stage, epoch, net, steps)
        except FloatingPointError as error:
            raise ValueError(
                f"{stage}, epoch {epoch + 1}: {error}; take a lower rate; {kept}"
            ) from None
        except (MemoryError, torch.OutOfMemoryError):
            raise ValueError(
                f"{stage}, epoch {epoch + 1}: out of memory; take smaller batches; {kept}"
            ) from None
        except RuntimeError as error:
            if "alloc" not in str(error):
                raise
            raise ValueError(
                f"{stage}, epoch {epoch + 1}: out of memory; take smaller batches; {kept}"
            ) from None

    def _epoch(
        self, stage: str, epoch: int, net: Network, steps: dict[str, torch.optim.Optimizer]
    ) -> Row:
        plan, searching = self.plan, "decisions" in steps
        began, at = time.process_time(), STAGES.index(stage)
        torch.manual_seed(_seed(plan.seed, at, epoch))  # of channels that are added
        generator = torch.Generator().manual_seed(_seed(plan.seed, at, epoch, 1))
        temperature = max(1e-3, plan.cooling**epoch)
        weights = net.weights()
        alphas = [choice.alpha for choice in net.choices.values()] if searching else []
        sums = np.zeros(5)
        row: Row = {"stage": stage, "epoch": epoch + 1, "flop": 0, "saved_bytes": 0}
        net.train()
        for number, (x, y) in enumerate(batches := list(self._batches(at, epoch))):
            net.draw(temperature, generator)
            if searching and number >= round(len(batches) * (1 - plan.decision_share)):
                logits = net(x)
                ce = functional.cross_entropy(logits, y)
                ms, used = net.price(plan.method, plan.array, plan.hardware_batch)
                loss = ce + plan.latency_weight * ms - plan.utilisation_weight * used
                self._step(steps["decisions"], alphas, loss)
                sums += np.array([0, 0, float(ms.detach()), float(used.detach()), 1])
                if stage == "channels" and plan.flexible:
                    with torch.no_grad():
                        for width in net.widths.values():
                            width.alpha.clamp_(min=0)
                    adapt(net, self.rule, steps.values())
            else:
                with torch.no_grad():
                    for choice in net.choices.values():
                        choice.gates = choice.gates.detach()
                compute = lambda: functional.cross_entropy(net(x), y)  # noqa: E731, B023
                if number == 0:
                    nbytes, loss = saved_bytes(compute, weights)
                    row["saved_bytes"] = nbytes
                else:
                    loss = compute()
                self._step(steps["weights"], weights, loss, plan.clip)
                sums[0] += float(loss.detach())
                sums[1] += 1
            row["flop"] += 3 * net.flop() * len(x)
        ce = sums[0] / max(1, sums[1])
        ms, used = sums[2:4] / max(1, sums[4])
        row |= {
            "temperature": temperature,
            "cross_entropy": ce,
            "ms": ms,
            "utilisation": used,
            "loss": ce + plan.latency_weight * ms - plan.utilisation_weight * used,
            "weight_bytes": sum(each.numel() * each.element_size() for each in weights) * 3,
            "widths": [width.likeliest for width in net.widths.values()],
            "allocated": [width.allocated for width in net.widths.values()],
        }
        row["cpu_s"] = time.process_time() - began
        if not searching:
            row["test_accuracy"] = accuracy(net, self.images)
        return row

    def _step(
        self, optimiser: torch.optim.Optimizer, of: list[Any], loss: Tensor, clip: float = 0.0
    ) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {float(loss.detach())}")
        for parameter, gradient in zip(of, torch.autograd.grad(loss, of, allow_unused=True)):
            parameter.grad = gradient
        if clip:
            torch.nn.utils.clip_grad_norm_(of, clip)
        optimiser.step()

    def _batches(self, stage: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        plan = self.plan
        each = len(self.images.x) // plan.batch
        seed = _seed(plan.seed, stage)
        for number in range(each):
            x, y = batch_of(self.images, epoch * each + number, plan.batch, seed)
            if plan.augment:
                x = augmented(x, np.random.default_rng([seed, epoch, number]))
            yield torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)

    def _log(self, stage: str, rows: list[Row]) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for row in rows:
            lists = {k: " ".join(map(str, v)) for k, v in row.items() if isinstance(v, list)}
            table.writerow({**row, **lists})
        with replacing(self.folder / f"{stage}.csv") as beside:
            beside.write_text(text.getvalue(), encoding="utf-8")


def log_of(folder: Path) -> list[Row]:
    """What was logged of a run, an epoch a row, numbers as numbers, widths as lists."""
    rows: list[Row] = []
    for stage in STAGES:
        file = folder / f"{stage}.csv"
        with file.open(encoding="utf-8") if file.exists() else io.StringIO() as lines:
            for row in csv.DictReader(lines):
                made: Row = {"stage": row.pop("stage"), "epoch": int(row.pop("epoch"))}
                for key in ("widths", "allocated"):
                    made[key] = [int(each) for each in row.pop(key).split()]
                rows.append(made | {key: float(text) for key, text in row.items() if text})
    return rows


def connected(logits: list[list[float]]) -> tuple[list[str], list[str]]:
    """The likeliest operation of each edge; where zeros cut the cell in two, edges into its output
    get their likeliest other one, and what was changed is said."""
    names = [*OPERATIONS]
    chosen = [names[int(np.argmax(each))] for each in logits]
    said = []
    for source in ("near", "far"):
        if alive(chosen):
            break
        at = EDGES.index((source, OUTPUT))
        best = max((logit, name) for logit, name in zip(logits[at], names) if name != "zero")[1]
        said.append(f"no way led to the cell's output: {source} to {OUTPUT} is {best}, not zero")
        chosen[at] = best
    return chosen, said


def accuracy(net: Network, images: Images) -> float:
    """Per cent of the test images whose largest logit is right."""
    net.eval()
    right = 0
    with torch.no_grad():
        for at in range(0, len(images.x_test), 256):
            x = torch.from_numpy(images.x_test[at : at + 256]).to(net.weight.device)
            guess = net(x).argmax(1).cpu().numpy()
            right += int((guess == images.y_test[at : at + 256]).sum())
    return 100 * right / len(images.x_test)


def augmented(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moved by up to an eighth of a side, zeros coming in, and half of them mirrored."""
    side = x.shape[-1]
    pad = side // 8
    wide = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    made = np.empty_like(x)
    for at, (row, column, mirrored) in enumerate(
        zip(*rng.integers(0, 2 * pad + 1, (2, len(x))), rng.random(len(x)) < 0.5)
    ):
        cut = wide[at, :, row : row + side, column : column + side]
        made[at] = cut[..., ::-1] if mirrored else cut
    return made


def _difference(held: dict[str, Any], stated: dict[str, Any]) -> str:
    """What of a plan.json is not as asked for."""
    found = [
        f"{name} {told.get(name)}, not {value}"
        for told, due in (
            (held.get("plan", {}), stated["plan"]),
            (held.get("rule", {}), stated["rule"]),
        )
        for name, value in due.items()
        if told.get(name) != value
    ]
    return "; ".join(found) or "its plan.json"


def _rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _write(file: Path, data: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside:
        beside.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
