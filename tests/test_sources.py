"""Data sets: what is read, in which dtypes, and what is refused with which words."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from fedjax_kd.data import Dataset, Examples, from_arrays, load, sources
from fedjax_kd.data import tfds as tfds_source
from fedjax_kd.data.shakespeare import BEGIN, CHARACTERS, END, VOCABULARY_SIZE, encode

FLOATS, WORDS = {"test_x": np.zeros((2, 2, 2))}, np.array(list("abcabc"))


def arrays(**changes):
    good = {
        "train_x": np.arange(24, dtype=np.uint8).reshape(6, 2, 2),
        "train_y": np.array([0, 1, 2, 0, 1, 2]),
        "test_x": np.zeros((2, 2, 2), np.uint8),
        "test_y": np.array([0, 2]),
    }
    return good | changes


def test_digits_are_stratified_and_complete():
    data = load("digits")
    assert (data.name, data.num_classes) == ("digits", 10)
    assert data.train.x.dtype == np.uint8
    assert data.train.x.max() == 16
    held = np.bincount(data.test.y) / (np.bincount(data.test.y) + np.bincount(data.train.y))
    assert np.all(np.abs(held - 0.2) < 0.01)
    again = load("digits")
    assert np.array_equal(again.train.x, data.train.x)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("uint8", "uint8"), ("bool", "uint8"), ("int64", "int32"), ("float64", "float32")],
)
def test_input_dtypes(given, kept):
    data = from_arrays(
        **arrays(train_x=np.ones((6, 2, 2), given), test_x=np.ones((2, 2, 2), given))
    )
    assert data.train.x.dtype == data.test.x.dtype == kept
    assert data.train.y.dtype == np.int32


def test_num_classes_is_inferred_over_both_parts():
    assert from_arrays(**arrays(test_y=np.array([0, 3]))).num_classes == 4
    assert from_arrays(**arrays(), num_classes=7).num_classes == 7


def test_sequence_labels_may_be_ignored():
    y, test_y = np.full((6, 3), -1), np.zeros((2, 3), int)
    assert from_arrays(**arrays(train_y=y, test_y=test_y), problem="tokens").num_classes == 1


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train_y": np.zeros(5, int)}, ValueError, "train_x has 6 rows and train_y 5"),
        ({"test_x": np.zeros((0, 2, 2))}, ValueError, "at least one row"),
        ({"test_y": np.zeros((), int)}, ValueError, "at least one row"),
        ({"train_y": np.zeros(6)}, TypeError, "y is float64, but holds the whole numbers 0..0"),
        ({"train_y": WORDS}, TypeError, "train_y is <U1"),
        ({"train_y": np.array([0, 1, -1, 0, 0, 0])}, ValueError, "holds -1, but classes"),
        ({"train_y": np.full(6, 2**40)}, ValueError, "fit 32 bits"),
        ({"train_x": np.full((6, 2, 2), np.nan)} | FLOATS, ValueError, "a NaN .* first in row 0"),
        ({"train_x": np.full((6, 2, 2), 1e300)} | FLOATS, ValueError, "infinity"),
        ({"train_x": WORDS[:, None, None], "test_x": WORDS[:2, None, None]}, TypeError, "numbers"),
        ({"test_x": np.zeros((2, 2, 3), np.uint8)}, ValueError, "the same: reshape"),
        ({"train_columns": {"client": np.zeros(5)}}, ValueError, "column train_client"),
        ({"test_columns": {"client": np.array([{}, {}])}}, ValueError, "column test_client"),
        ({"num_classes": 2}, ValueError, "num_classes=2 allows 0..1"),
    ],
)
def test_bad_arrays_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        from_arrays(**arrays(**changes))


def test_dataset_itself_wants_canonical_dtypes():
    for x, words in (
        (np.zeros((2, 1)), "build the data set with from_arrays"),
        (np.zeros((2, 1), np.uint8), "train_y is float64, but must hold whole numbers"),
    ):
        rows = Examples(x, np.zeros(2, np.int32 if x.dtype.kind == "f" else float), {})
        with pytest.raises(TypeError, match=words):
            Dataset("mine", rows, rows, 1)


def test_npz_with_columns(tmp_path, monkeypatch):
    extra = {"train_client": np.arange(6) // 2, "label_names": np.array(["a", "b", "c"])}
    np.savez_compressed(tmp_path / "tiny.npz", **arrays(), **extra)
    data = load("tiny", data_dir=tmp_path)
    assert list(data.train.columns) == ["client"]
    assert np.array_equal(data.train.x, arrays()["train_x"])
    monkeypatch.setenv("FEDJAX_KD_DATA", str(tmp_path))
    assert load("tiny").name == "tiny"
    assert "tiny" in sources()


def test_no_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDJAX_KD_DATA", raising=False)
    with pytest.raises(ValueError, match=r"none is given.*--data-dir"):
        load("mnist")
    with pytest.raises(ValueError, match="does not exist or is no folder"):
        load("mnist", data_dir=tmp_path / "nowhere")


def test_unknown_name_says_which_are_near(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays())
    with pytest.raises(ValueError, match=r"Did you mean cifar10\?"):
        load("cifra10", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"There are digits, .*cifar10"):
        load("zzz", data_dir=tmp_path)


def test_npz_with_missing_keys(tmp_path):
    np.savez(tmp_path / "pacs.npz", x=np.zeros(3), y=np.zeros(3), domain=np.zeros(3))
    with pytest.raises(ValueError, match=r"holds x, y, domain, but train_x, .*divide the rows"):
        load("pacs", data_dir=tmp_path)


def test_npz_errors_name_the_file(tmp_path):
    np.savez(tmp_path / "short.npz", **arrays(train_y=np.zeros(5, int)))
    with pytest.raises(ValueError, match=r"^short.npz: train_x has 6 rows"):
        load("short", data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["noise", "cut", "damaged", "npy", "empty"])
def test_unreadable_npz(tmp_path, kind):
    path = tmp_path / "bad.npz"
    whole = io.BytesIO()
    np.savez_compressed(whole, **arrays())
    bare = io.BytesIO()
    np.save(bare, np.zeros(3))
    path.write_bytes(
        {
            "noise": b"PK\x03\x04 but not really",
            "cut": whole.getvalue()[:-60],
            "damaged": whole.getvalue()[:90] + b"\xff" * 20 + whole.getvalue()[110:],
            "npy": bare.getvalue(),
            "empty": b"",
        }[kind]
    )
    with pytest.raises(ValueError, match=r"bad\.npz cannot be read as an npz file"):
        load("bad", data_dir=tmp_path)


def write_plays(folder, roles):
    lines = [json.dumps({"client": client, "text": text}) for client, text in roles]
    (folder / "shakespeare.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_shakespeare(tmp_path):
    long = "To be, or not to be\u2014that is the question.\n" * 40
    write_plays(tmp_path, [("hamlet", long), ("ghost", "Mark me."), ("hamlet", "Alas!")])
    data = load("shakespeare", data_dir=tmp_path)
    assert data.num_classes == VOCABULARY_SIZE == 90
    assert len(set(CHARACTERS)) == 86
    client = data.train.columns["client"]
    x, y = data.train.x, data.train.y
    assert x.shape[1] == y.shape[1] == 80
    ghost = np.flatnonzero(client == 1)
    assert len(ghost) == 1
    text = encode("Mark me.")
    assert np.array_equal(x[ghost[0], :9], text[:-1])
    assert np.array_equal(y[ghost[0], :9], text[1:])
    assert np.all(y[ghost[0], 9:] == -1)
    rows = np.concatenate([x[client == 0], data.test.x[data.test.columns["client"] == 0]])
    targets = np.concatenate([y[client == 0], data.test.y])
    assert len(data.test.y) == len(rows) // 10 > 0
    said = encode(long + "\nAlas!")
    assert np.array_equal(targets[targets != -1], said[1:])
    assert (said[0], said[-1]) == (BEGIN, END)


def test_shakespeare_lines_must_be_roles(tmp_path):
    path = tmp_path / "shakespeare.jsonl"
    for bad in ('{"client": "a"}', "[1]", "{", '{"client": 3, "text": "x"}'):
        path.write_text('{"client": "a", "text": "x"}\n' + bad)
        with pytest.raises(ValueError, match=r"line 2 of .*shakespeare\.jsonl"):
            load("shakespeare", data_dir=tmp_path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        load("shakespeare", data_dir=tmp_path)


def test_tfds_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs tensorflow_datasets, array_record.*dependencies"):
        load("tfds:mnist")
    with pytest.raises(ValueError, match=r"tensorflow, .*'fedjax-kd\[tfds-prepare\]'"):
        tfds_source.prepare("mnist")


def write_tfds(folder, file_format="array_record"):
    """A prepared data set of the real format: 9 + 3 images, label and coarse label."""
    pytest.importorskip("array_record.python.array_record_module")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info
    from tensorflow_datasets.core.splits import SplitDict

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(4, 4, 1)),
            "label": tfds.features.ClassLabel(num_classes=5),
            "coarse_label": tfds.features.ClassLabel(num_classes=2),
            "id": tfds.features.Text(),
        }
    )
    home = folder / "tiny" / "1.0.0"
    home.mkdir(parents=True)
    identity = dataset_info.DatasetIdentity(
        name="tiny", version=tfds.core.Version("1.0.0"), data_dir=str(home), module_name="tiny"
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=features, supervised_keys=("image", "label")
    )
    info.set_file_format(file_format)
    sizes = {"train": 9, "test": 3}
    info.set_splits(
        SplitDict([write_split(home, features, file_format, *size) for size in sizes.items()])
    )
    info.write_to_directory(home)


def write_split(home, features, file_format, name, size):
    """One file of rows, and what tfds notes about it."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(features.get_serialized_info())
    writer = ArrayRecordWriter(
        str(home / f"tiny-{name}.{file_format}-00000-of-00001"), "group_size:1"
    )
    for i in range(size):
        png = io.BytesIO()
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(png, format="PNG")
        row = {"image": png.getvalue(), "label": i % 3, "coarse_label": i % 2, "id": f"{i}"}
        writer.write(serializer.serialize_example(row))
    writer.close()
    template = tfds.core.ShardedFileTemplate(
        data_dir=home, dataset_name="tiny", split=name, filetype_suffix=file_format
    )
    return tfds.core.SplitInfo(
        name=name, shard_lengths=[size], num_bytes=0, filename_template=template
    )


def test_tfds_reads_array_record(tmp_path):
    write_tfds(tmp_path)
    data = load("tfds:tiny", data_dir=tmp_path)
    assert data.name == "tfds:tiny"
    assert data.train.x.dtype == np.uint8
    assert np.array_equal(data.train.x[:, 0, 0, 0], np.arange(9))
    assert np.array_equal(data.train.y, np.arange(9) % 3)
    assert data.num_classes == 5
    assert list(data.train.columns) == ["coarse"]
    assert np.array_equal(data.test.columns["coarse"], np.arange(3) % 2)


def test_tfds_reading_imports_no_tensorflow(tmp_path):
    write_tfds(tmp_path)
    script = (
        "import sys; from fedjax_kd.data import load; "
        f"load('tfds:tiny', data_dir={str(tmp_path)!r}); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_tfds_wants_array_record(tmp_path):
    write_tfds(tmp_path, file_format="tfrecord")
    with pytest.raises(ValueError, match="prepared as tfrecord, but only array_record"):
        load("tfds:tiny", data_dir=tmp_path)


def test_tfds_not_prepared_or_unknown(tmp_path):
    with pytest.raises(ValueError, match=r"run `fedjax-kd data prepare mnist --data-dir"):
        load("tfds:mnist", data_dir=tmp_path)
    with pytest.raises(ValueError, match="did you mean mnist"):
        load("tfds:mnits", data_dir=tmp_path)
