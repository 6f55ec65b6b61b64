"""Sources, their files, augmentation and the order of examples."""

import gzip
import io
import pickle
import struct
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, data, methods
from kd_jax.data import augment, resident, sources
from kd_jax.data.cifar import cifar

KEY = jax.random.key(5)


def test_digits():
    d = data.load("digits")
    assert (len(d.train), len(d.test), d.train.num_classes, d.train.shape) == (1437, 360, 10, (8, 8, 1))
    assert set(d.train[0]) == {"image", "label"} and d.train.images.max() == 255
    x = d.train.images / 255
    np.testing.assert_allclose(d.mean, x.mean(), rtol=1e-6)
    np.testing.assert_allclose(d.std, x.std(), rtol=1e-6)


def test_synthetic_is_fixed_and_sized():
    sizes = {"classes": 5, "size": 8, "channels": 1, "train": 20, "test": 7}
    a, b = data.load("synthetic", synthetic=sizes), sources.synthetic.__wrapped__(**sizes)
    np.testing.assert_array_equal(a.train.images, b.train.images)
    assert a.train.images.shape == (20, 8, 8, 1) and len(a.test) == 7
    assert (np.bincount(a.train.labels) == 4).all()
    with pytest.raises(InputError, match="data.synthetic"):
        data.load("synthetic", synthetic={**sizes, "train": 0})


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path, rng):
    """A folder of the true layout: one gzipped pair, one plain."""
    arrays = {}
    for split, n, pack in (("train", 12, gzip.compress), ("t10k", 5, bytes)):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10
        arrays[split] = images, labels
        suffix = ".gz" if pack is gzip.compress else ""
        (tmp_path / f"{split}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (tmp_path / f"{split}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    return tmp_path, arrays


def test_fashion_mnist(fashion):
    folder, arrays = fashion
    d = data.load("fashion_mnist", dir=str(folder))
    np.testing.assert_array_equal(d.train.images[..., 0], arrays["train"][0])
    np.testing.assert_array_equal(d.test.labels, arrays["t10k"][1])
    assert str(folder) in d.source


def test_fashion_mnist_files_that_are_wrong(fashion):
    folder, _ = fashion
    broken = folder / "train-images-idx3-ubyte.gz"
    whole = broken.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text", gzip.compress(b"\x00\x00\x0d\x03")):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=f"{broken.name}: not a readable idx file"):
            sources.fashion_mnist.__wrapped__(str(folder))
    broken.unlink()
    with pytest.raises(InputError, match="no train-images-idx3-ubyte.gz in .*apt-get install dataset-fashion-mnist"):
        sources.fashion_mnist.__wrapped__(str(folder))


def cifar_batch(rng, n, classes):
    planar = rng.integers(0, 256, (n, 3072), np.uint8)
    return planar, (np.arange(n) % classes).tolist()


def cifar_files(form, classes, rng):
    """{member: bytes} of the published layout, and what the images are."""
    names = {10: [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], 100: ["train", "test"]}[classes]
    inside = {("python", 10): "cifar-10-batches-py", ("binary", 10): "cifar-10-batches-bin"}.get(
        (form, classes), f"cifar-100-{form}"
    )
    files, truth = {}, []
    for name in names:
        planar, labels = cifar_batch(rng, 4, classes)
        truth.append((planar.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels))
        if form == "python":
            key = b"labels" if classes == 10 else b"fine_labels"
            files[f"{inside}/{name}"] = pickle.dumps({b"data": planar, key: labels, b"batch_label": b"x"}, protocol=2)
        else:
            y = np.array(labels, np.uint8)[:, None]
            rows = np.concatenate([y, planar] if classes == 10 else [y // 5, y, planar], axis=1)
            files[f"{inside}/{name}.bin"] = rows.tobytes()
    return files, truth


def pack(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar(tmp_path, rng, form, classes, packed):
    files, truth = cifar_files(form, classes, rng)
    if packed:
        pack(tmp_path / f"cifar-{classes}-{form}.tar.gz", files)
    else:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    d = data.load(f"cifar{classes}", dir=str(tmp_path))
    np.testing.assert_array_equal(d.train.images, np.concatenate([x for x, _ in truth[:-1]]))
    np.testing.assert_array_equal(d.test.images, truth[-1][0])
    assert d.test.labels.tolist() == truth[-1][1] and d.train.num_classes == classes
    assert d.mean == (0.5071, 0.4867, 0.4408)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_cifar_files_that_are_wrong(tmp_path, rng, capsys):
    files, _ = cifar_files("python", 100, rng)
    archive = tmp_path / "cifar-100-python.tar.gz"

    def message():
        with pytest.raises(InputError) as e:
            cifar.__wrapped__(100, str(tmp_path))
        return str(e.value)

    assert "no CIFAR-100" in message() and "cifar-100-python.tar.gz or cifar-100-binary.tar.gz" in message()
    pack(archive, files)
    archive.write_bytes(archive.read_bytes()[:2000])
    assert "cifar-100-python.tar.gz: not a whole archive" in message()
    pack(archive, {**files, "cifar-100-python/train": pickle.dumps(Evil())})
    refused = "(refers to builtins.print; only numpy arrays and plain containers are read)"
    assert f"not CIFAR-100 python files {refused}" in message()
    bomb = b"\x80\x02K\x07r\xff\xff\xff\xff."  # a memo index for which Python's C code takes 64 GB
    pack(archive, {**files, "cifar-100-python/train": bomb})
    assert "not CIFAR-100 python files" in message()
    assert "ran" not in capsys.readouterr().out
    archive.unlink()
    (tmp_path / "cifar-100-binary").mkdir()
    for name in ("train.bin", "test.bin"):
        (tmp_path / "cifar-100-binary" / name).write_bytes(b"\x00" * 3000)
    assert "not CIFAR-100 binary files" in message()


def test_cifar_as_python_2_wrote_it(tmp_path, rng):
    """Its text is bytes to Python 3, that of numpy's types too; this is how the published archives are."""
    planar, labels = cifar_batch(rng, 4, 100)
    raw = planar.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x04M\x00\x0ct"
    array += b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array += b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    code = b"\x80\x02}q\x01(U\x0bfine_labels" + listed + b"U\x04data" + array + b"u."
    assert pickle.loads(code, encoding="bytes")[b"fine_labels"] == labels
    (tmp_path / "cifar-100-python").mkdir()
    for name in ("train", "test"):
        (tmp_path / "cifar-100-python" / name).write_bytes(code)
    dataset = cifar.__wrapped__(100, str(tmp_path))
    np.testing.assert_array_equal(dataset.test.images, planar.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(dataset.train.labels, labels)


@pytest.mark.parametrize("packed", [True, False])
def test_cifar_with_a_flipped_byte_is_read_or_refused(tmp_path, rng, packed):
    files, _ = cifar_files("python", 100, rng)
    broken, whole = tmp_path / "cifar-100-python" / "train", files["cifar-100-python/train"]
    if packed:
        broken = tmp_path / "cifar-100-python.tar.gz"
        pack(broken, files)
        whole = broken.read_bytes()
    else:
        broken.parent.mkdir()
        (broken.parent / "test").write_bytes(files["cifar-100-python/test"])
    refused = 0
    ends = [*range(150), *range(len(whole) - 150, len(whole))]
    for i in [*ends, *range(150, len(whole) - 150, len(whole) // 60)]:
        broken.write_bytes(whole[:i] + bytes([whole[i] ^ 8]) + whole[i + 1 :])
        try:
            cifar.__wrapped__(100, str(tmp_path))
        except InputError:
            refused += 1
    assert refused > 60


def test_unknown_names():
    with pytest.raises(InputError, match="data.name: unknown data set 'fashion_mnits'; did you mean fashion_mnist"):
        data.load("fashion_mnits")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), [0, 1], "must be .N, H, W, C. uint8"),
        (np.zeros((2, 4, 4, 1), np.float32), [0, 1], "got float32"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0], "and 1 labels"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0, 3], "labels must be 0 to 2, got 0 to 3"),
    ],
)
def test_arrays_are_checked(images, labels, message):
    with pytest.raises(InputError, match=message):
        sources.Arrays(images, np.array(labels, np.int32), 3)


def test_crop_flip_is_every_crop_and_mirror(rng):
    """View v is the crop at (row, column) of the zero-padded image, mirrored in the upper half."""
    image = rng.normal(size=(5, 6, 1)).astype("f")
    pad, side = 1, 3
    views = jnp.arange(augment.num_views("crop_flip", pad))
    cropped = augment.crop_flip(jnp.tile(image, (len(views), 1, 1, 1)), views, pad=pad)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    for v in range(len(views)):
        row, column = divmod(v % side**2, side)
        crop = padded[row : row + 5, column : column + 6]
        np.testing.assert_array_equal(cropped[v], crop[:, ::-1] if v >= side**2 else crop)
    np.testing.assert_array_equal(cropped[4], image)  # the middle of the first half: as it was


def test_views_depend_on_seed_epoch_and_index_alone():
    index = jnp.arange(500)
    a = augment.view_ids(KEY, 3, index, augment="crop_flip", pad=4)
    shuffled = augment.view_ids(KEY, 3, index[::-1], augment="crop_flip", pad=4)
    np.testing.assert_array_equal(a, shuffled[::-1])
    for other in (augment.view_ids(KEY, 4, index, augment="crop_flip", pad=4),
                  augment.view_ids(jax.random.key(6), 3, index, augment="crop_flip", pad=4)):  # fmt: skip
        assert (np.asarray(a) != np.asarray(other)).mean() > 0.9
    assert 0 <= int(a.min()) < 10 and 150 < int(a.max()) < 162
    assert int(augment.view_ids(KEY, 3, index, augment="crop", pad=4).max()) < 81
    assert augment.padding(32) == 4 and augment.padding(8) == 1 and augment.padding(4) == 1
    assert augment.num_views("none", 4) == 1


def test_data_draws_from_a_root_key_of_its_own_name():
    roots = [augment.root_key(5), augment.root_key(6), KEY, methods.base.fold(KEY, "train")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in roots}) == 4
    assert jnp.array_equal(jax.random.key_data(roots[0]), jax.random.key_data(methods.base.fold(KEY, "data")))


def test_every_epoch_is_a_permutation_of_full_batches():
    n, b = 23, 5
    steps = [resident.train_index(1, step, n=n, batch_size=b) for step in range(8)]
    assert [e for e, _ in steps] == [0] * 4 + [1] * 4
    for epoch in (0, 1):
        used = np.concatenate([i for e, i in steps if e == epoch])
        assert len(set(used)) == 20 and set(used) <= set(range(23))
    assert not np.array_equal(resident.order(1, 0, n), resident.order(1, 1, n))
    assert not np.array_equal(resident.order(1, 0, n), resident.order(2, 0, n))


def test_every_test_example_counts_once():
    parts = [resident.test_index(s, n=13, batch_size=4) for s in range(4)]
    counted = np.concatenate([i[m > 0] for i, m in parts])
    assert counted.tolist() == list(range(13)) and all(len(i) == 4 and i.max() < 13 for i, _ in parts)


def test_batches():
    d = sources.synthetic(classes=5, size=8, channels=1, train=20, test=7)
    index = jnp.array([3, 17], jnp.int32)
    plain = resident.train_batch(d.train.images, d.train.labels, index, 0, KEY, augment="none")
    np.testing.assert_allclose(plain["image"], d.train.images[[3, 17]] / 255, rtol=1e-6)
    assert plain["label"].tolist() == d.train.labels[[3, 17]].tolist() and plain["mask"].tolist() == [1, 1]
    moved = resident.train_batch(d.train.images, d.train.labels, index, 0, KEY, augment="crop_flip")
    assert not np.array_equal(moved["image"], plain["image"])
    assert float(moved["image"].max()) <= 1 and float(moved["image"].min()) >= 0
