"""The whole pipeline on real data: train, export, serve, request, report.

    python -m demo digits            `make demo`   about a minute on two cores
    python -m demo mnist             `make mnist`  about ten minutes on two cores
    python -m demo digits --serve    `make serve`  leaves the server running

Every figure is requested from the running server through the client. The files lie under build/demo-<data>.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import betabinom

from benchmarks.processes.served import ServedProcess
from benchmarks.results.recipes import RECIPES, RECORDS, Recorded, read_recipe
from latentserve import records
from latentserve.client import Client
from latentserve.v1 import embedding_pb2 as pb
from training.data import Data
from training.evaluation.comparison import baseline_report
from training.evaluation.ood_sets import IMAGES, QUICK_SETS, ood_rows
from training.evaluation.plots import plot_images
from training.evaluation.probes import knn_accuracy, linear_probe_accuracy
from training.evaluation.report import EVALUATION, FULL, METHOD
from training.evaluation.separation import auroc
from training.running.run import RUN, Run

PORTS = (50051, 9464)
NUM_LATENCIES = 500
NUM_PICTURED = 8
ALPHA = 0.05
BASELINES = ("pixels", "PCA-16", "random init")

FEW_LABELS = "accuracy of a linear probe with ten labels a class"

Rows = dict[str, str]


@dataclass(frozen=True)
class Options:
    """Runs the whole pipeline: trains, exports, serves, and requests every figure from the server.

    Attributes:
        data: data set, whose VAE recipe is trained.
        serve: leave the server running until Ctrl-C, on ports 50051 and 9464.
    """

    data: Annotated[Literal["digits", "mnist"], tyro.conf.Positional]
    serve: bool = False


def main(options: Options) -> int:
    """Runs the pipeline; returns the exit status."""
    folder = Path("build") / f"demo-{options.data}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run, models = folder / "run", folder / "models"
    name = f"vae_{options.data}"
    recipe, recorded = read_recipe(RECIPES / f"{name}.toml"), records.read(Recorded, RECORDS / f"{name}.json")
    arguments = ("--data", recipe.data, *recipe.arguments, "--run", str(run))
    command("training", recipe.method, *arguments, threads=recorded.threads)
    command("export", str(run), "--to", str(models))
    with ServedProcess(models, folder / "server.log", ports=PORTS if options.serve else (0, 0)) as server:
        with Client(server.target) as client:
            tables, figures = request_all(client, server, records.read(Run, run / RUN), folder)
        tables[FEW_LABELS] = few_labels(models)
        show(tables)
        (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
        (report,) = models.glob("*/*/report.html")
        print(f"picture  {folder / 'picture.png'}\nreport   {report}\nfigures  {folder / 'figures.json'}")
        if options.serve:
            print(f"serving  {server.target}, metrics on {server.metrics_url}; Ctrl-C stops")
            try:
                server.wait()
            except KeyboardInterrupt:
                print("\nstopping")
    status = server.stop()
    print(f"server   exit {status}")
    return status


def command(package: str, *arguments: str, threads: int = 0) -> None:
    """Runs one of our own command lines, its output shown; with as many threads, where a record says how many."""
    line = [sys.executable, "-m", package, *arguments]
    given = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    print("$", *(f"{name}={value}" for name, value in given.items()), "python", *line[1:], flush=True)
    if status := subprocess.run(line, check=False, env=os.environ | given).returncode:
        sys.exit(status)


def request_all(
    client: Client, server: ServedProcess, run: Run, folder: Path
) -> tuple[dict[str, Rows], dict[str, float]]:
    """Requests everything from the server; returns tables to show and figures to keep."""
    data = run.load_data()
    described = client.get_model().model
    answered = client.analyze(data.test.values, ["embedding", "reconstruction", "score"], alpha=ALPHA)
    assert answered.embeddings is not None
    assert answered.reconstructions is not None
    assert answered.scores is not None
    scores = answered.scores
    error = np.square(data.test.values / np.float32(255) - answered.reconstructions).mean(axis=(1, 2, 3))
    ood = {name: ood_rows(name, data.test.values) for name in IMAGES if name in QUICK_SETS}
    answers = {name: client.score(images, alpha=ALPHA) for name, images in ood.items()}
    seconds = latencies(client, data.test.values)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3

    tables: dict[str, Rows] = {"model": model_rows(described, answered.embeddings)}
    figures = {
        "reconstruction_mean_squared_error": float(error.mean()),
        f"share_flagged_at_alpha_{ALPHA}": float(scores.flagged.mean()),
        "latency_p50_ms": float(p50),
        "latency_p99_ms": float(p99),
    }
    tables["out-of-distribution"] = {
        f"{data.spec} test": f"p median {np.median(scores.p_values):.2g}  flagged {scores.flagged.mean():.2%}"
        f" at alpha {ALPHA}  reconstruction error {error.mean():.4f}"
    }
    for name, answer in answers.items():
        figures[f"auroc_against_{name}"] = area = auroc(scores.scores[:, 0], answer.scores[:, 0])
        tables["out-of-distribution"][name] = (
            f"p median {np.median(answer.p_values):.2g}  flagged {answer.flagged.mean():.2%}  AUROC {area:.4f}"
        )
    tables["out-of-distribution"]["false alarms to expect"] = expected(described.detectors[0], len(data.test.values))
    tables["probes (test accuracy)"] = probe_rows(client, run, data, answered.embeddings, figures)
    tables["service"] = {
        "one image, one client": f"p50 {p50:.2f} ms  p99 {p99:.2f} ms  ({NUM_LATENCIES} calls)",
        **metric_rows(server.metrics(), figures),
    }
    draw(client, data, ood, folder / "picture.png")
    return tables, figures


def model_rows(model: pb.Model, embeddings: NDArray[Any]) -> Rows:
    """What the server says of the model."""
    return {
        "model": f"{model.name} version {model.version} ({model.method} on {model.data})",
        "runs on": model.execution_provider,
        "embeddings": f"{embeddings.dtype} {list(embeddings.shape)}",
        "embedding space": model.embedding_space,
        "detector": f"{model.detectors[0].name}, calibrated on {model.detectors[0].num_calibration_rows} rows",
    }


def expected(detector: pb.Detector, num_rows: int) -> str:
    """The share of in-distribution rows that is flagged, given so few of them and so few to calibrate on.

    At level alpha the rate of a calibration set of n rows is a draw of Beta(k, n + 1 - k), k = floor(alpha (n + 1));
    of so many rows as many are flagged as that rate makes.
    """
    n = detector.num_calibration_rows
    k = int(ALPHA * (n + 1))
    low, high = betabinom(num_rows, k, n + 1 - k).interval(0.95)
    return f"{low / num_rows:.1%} to {high / num_rows:.1%} (95 %) of {num_rows} rows, calibrated on {n}"


def probe_rows(client: Client, run: Run, data: Data, test_embeddings: NDArray[Any], figures: dict[str, float]) -> Rows:
    """Probes of embeddings fetched through the server, and the baselines that a method must beat."""
    started = time.monotonic()
    train_embeddings = client.embed(data.train.values)
    rate = len(train_embeddings) / (time.monotonic() - started)
    assert data.train.labels_N is not None
    assert data.test.labels_N is not None
    arrays = (train_embeddings, data.train.labels_N, test_embeddings, data.test.labels_N)
    linear, knn = linear_probe_accuracy(*arrays), knn_accuracy(*arrays)
    figures |= {"linear_probe": linear, "knn_20": knn, "images_per_second_one_client": rate}
    rows = {"served embeddings": f"linear {linear:.2%}  kNN-20 {knn:.2%}"}
    for name in BASELINES:
        baseline_linear, baseline_knn = (
            metric.value for metric in baseline_report(name, run, data, replace(FULL, parts=("probes",)))
        )
        figures |= {f"{name} linear": baseline_linear, f"{name} knn_20": baseline_knn}
        rows[f"baseline: {name}"] = f"linear {baseline_linear:.2%}  kNN-20 {baseline_knn:.2%}"
    return rows


def few_labels(models: Path) -> Rows:
    """What ten labels a class are worth, from the bundle's evaluation report: there an encoder shows its training."""
    (path,) = models.glob(f"*/*/{EVALUATION}")
    metrics = [one for one in json.loads(path.read_text())["metrics"] if one["name"] == "labels_10_per_class_accuracy"]
    names = {METHOD: "this encoder", "random init": "the same network untrained"}
    return {
        names.get(one["features"], one["features"]): f"{one['value']:.2%} +- {one['standard_deviation']:.2%}"
        for one in metrics
    }


def latencies(client: Client, images: NDArray[Any]) -> NDArray[np.float64]:
    """Seconds of single-image calls, one after another."""
    seconds = []
    for i in range(NUM_LATENCIES):
        row = i % len(images)
        started = time.perf_counter()
        client.embed(images[row : row + 1])
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)


def metric_rows(metrics: dict[str, float], figures: dict[str, float]) -> Rows:
    """A few of the server's own metrics."""

    def total(prefix: str) -> float:
        return sum(value for name, value in metrics.items() if name.startswith(prefix))

    rows, batches = total("latentserve_batch_rows_sum"), total("latentserve_batch_rows_count")
    memory = metrics["process_resident_memory_bytes"] / 2**20
    figures["server_resident_mib"] = memory
    return {
        "calls answered": f"{total('latentserve_requests_total'):.0f}",
        "rows run": f"{rows:.0f} in {batches:.0f} batches",
        "padding rows": f"{total('latentserve_padding_rows_total'):.0f}",
        "dead work rows": f"{total('latentserve_dead_work_rows_total'):.0f}",
        "resident memory": f"{memory:.0f} MiB",
    }


def draw(client: Client, data: Data, ood: dict[str, NDArray[Any]], path: Path) -> None:
    """Draws inputs, their reconstructions and their p-values."""
    sets = {"test": data.test.values[:NUM_PICTURED], **{k: v[:NUM_PICTURED] for k, v in ood.items()}}
    images = np.concatenate([sets[name][: NUM_PICTURED // 2] for name in sets])
    answered = client.analyze(images, ["reconstruction", "score"], alpha=ALPHA)
    assert answered.reconstructions is not None
    assert answered.scores is not None
    captions = [
        f"p={p:.2g}" + ("\nOOD" if flagged else "")
        for p, flagged in zip(answered.scores.p_values, answered.scores.flagged, strict=True)
    ]
    figure = plot_images([("input", images), ("reconstruction", answered.reconstructions)], captions)
    figure.suptitle(f"{', '.join(sets)}: four each; p-values at alpha {ALPHA}", fontsize=9, y=1.02)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def show(tables: dict[str, Rows]) -> None:
    """Prints the tables."""
    console = Console()
    for title, rows in tables.items():
        table = Table(title=title, title_justify="left", show_header=False, min_width=80)
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m demo")))
