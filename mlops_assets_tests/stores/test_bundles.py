import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from mlops_assets.core.manifest import FeatureContract, ImputationPlan, Manifest
from mlops_assets.stores.bundles import BundleError, BundleStore
from mlops_assets_tests.stores.crash import crashes

DAY = datetime(2013, 3, 1, tzinfo=UTC)
FILES = {"scorer.json": b"{}", "scorer.npz": bytes(range(256)), "golden.json": b"[]"}
MANIFEST = Manifest(
    model="flight_delay",
    version=3,
    task="binary",
    features=(FeatureContract("temp", "number", unit="F", minimum=-40, maximum=130),),
    label="late",
    classes=(0, 1),
    threshold=0.5,
    imputation=ImputationPlan(()),
    entity_key="flight",
    event_time="scheduled",
    as_of=DAY,
    training_start=DAY,
    training_end=DAY,
    training_rows=10,
    data_hash="sha256:00",
    code_version="abc",
    libraries={"scikit-learn": "1.9.1", "numpy": "2.0"},
    metrics={"roc_auc": 0.71, "brier": 0.16},
    mlflow_run="run",
    dagster_run="run",
    fallback_value=0.24,
    uncompiled=None,
    trusted_types=(),
    files={},
)


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "bundles")


def test_a_bundle_reads_back_as_it_was_put(store):
    bundle = store.put(MANIFEST, FILES)
    read = store.get(bundle)
    assert bundle in store
    assert read.id == bundle
    assert read.files == FILES
    assert read.manifest.files.keys() == FILES.keys()
    assert msgspec.structs.replace(read.manifest, files={}) == MANIFEST


def test_the_same_content_is_the_same_bundle_in_any_order(store):
    reordered = msgspec.structs.replace(MANIFEST, metrics=dict(reversed(MANIFEST.metrics.items())))
    assert store.put(MANIFEST, FILES) == store.put(reordered, dict(reversed(FILES.items())))
    assert len([entry for entry in store.root.iterdir() if entry.is_dir()]) == 1


def test_any_difference_makes_another_bundle(store):
    ids = {
        store.put(MANIFEST, FILES),
        store.put(MANIFEST, FILES | {"scorer.json": b"{ }"}),
        store.put(msgspec.structs.replace(MANIFEST, version=4), FILES),
    }
    assert len(ids) == 3


def test_a_missing_bundle_is_named_with_the_remedy(store):
    bundle = "sha256:" + "0" * 64
    assert bundle not in store
    with pytest.raises(BundleError, match=f"{bundle} is not in .*: store it again"):
        store.get(bundle)


@pytest.mark.parametrize(
    "bundle", ["", "sha256:", "sha256:" + "g" * 64, "0" * 64, "sha256:../../etc", "sha256:" + "0" * 64 + "\n"]
)
def test_only_hashes_are_ids(store, bundle):
    assert bundle not in store
    with pytest.raises(BundleError, match="is not a bundle id"):
        store.path(bundle)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "manifest.json", "a\n", "a\0b"]
)
def test_only_plain_file_names_are_stored(store, name):
    with pytest.raises(BundleError, match="plain file name"):
        store.put(MANIFEST, {name: b""})
    assert not store.root.exists()


def test_a_manifest_that_json_cannot_carry_is_refused(store):
    for broken in (
        msgspec.structs.replace(MANIFEST, metrics={"roc_auc": float("nan")}),
        msgspec.structs.replace(MANIFEST, fallback_value=float("inf")),
    ):
        with pytest.raises(BundleError, match=r"manifest\.json"):
            store.put(broken, FILES)
    assert not store.root.exists()


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    r"scorer\.npz has the hash": lambda folder: _flip_a_bit(folder / "scorer.npz"),
    r"scorer\.json has the hash": lambda folder: (folder / "scorer.json").write_bytes(b""),
    r"manifest\.json has the hash": lambda folder: _flip_a_bit(folder / "manifest.json"),
    r"missing golden\.json": lambda folder: (folder / "golden.json").unlink(),
    r"missing golden\.json, scorer\.json": lambda folder: [
        (folder / name).unlink() for name in ("golden.json", "scorer.json")
    ],
    r"manifest\.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    r"extra\.pkl does not belong": lambda folder: (folder / "extra.pkl").write_bytes(b""),
    r"golden\.json is not a file": lambda folder: ((folder / "golden.json").unlink(), (folder / "golden.json").mkdir()),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found_named_and_repaired_by_putting_the_bundle_again(store, what):
    bundle = store.put(MANIFEST, FILES)
    DAMAGES[what](store.path(bundle))
    with pytest.raises(BundleError, match=f"{bundle} .*{what}.*Store it again"):
        store.get(bundle)
    assert store.put(MANIFEST, FILES) == bundle
    assert store.get(bundle).files == FILES
    assert {entry.name for entry in store.root.iterdir()} == {store.path(bundle).name, ".lock"}


def test_a_folder_moved_to_another_name_is_not_that_bundle(store):
    bundle, other = store.put(MANIFEST, FILES), "sha256:" + "1" * 64
    store.path(bundle).rename(store.path(other))
    with pytest.raises(BundleError, match=r"manifest\.json has the hash"):
        store.get(other)


def test_a_bundle_of_another_format_says_so(store, tmp_path):
    folder = shutil.copytree(store.path(store.put(MANIFEST, FILES)), tmp_path / "newer")
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes()) | {"format": 2, "new_field": 1}
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(BundleError, match="bundle format 2, this program reads 1"):
        store.add_folder(folder)


@pytest.mark.parametrize("content", [b"{", b'{"format":1,"model":"\xff"}', b'{"format":1}'])
def test_a_folder_without_a_valid_manifest_is_not_imported(store, tmp_path, content):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"broken.*manifest\.json is not valid"):
        store.add_folder(tmp_path / "broken")


def test_a_manifest_naming_files_outside_the_bundle_is_refused(store, tmp_path):
    (tmp_path / "secret").write_bytes(b"")
    folder = shutil.copytree(store.path(store.put(MANIFEST, {})), tmp_path / "hostile")
    manifest = msgspec.structs.replace(MANIFEST, files={"../secret": "sha256:00"})
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(BundleError):
        store.add_folder(folder)


def test_a_folder_is_imported_under_the_same_id(store, tmp_path):
    bundle = store.put(MANIFEST, FILES)
    carried = shutil.copytree(store.path(bundle), tmp_path / "carried")
    elsewhere = BundleStore(tmp_path / "elsewhere")
    assert elsewhere.add_folder(carried) == bundle
    assert elsewhere.get(bundle) == store.get(bundle)
    assert elsewhere.add_folder(elsewhere.path(bundle)) == bundle


def test_a_damaged_folder_is_not_imported(store, tmp_path):
    carried = shutil.copytree(store.path(store.put(MANIFEST, FILES)), tmp_path / "carried")
    _flip_a_bit(carried / "scorer.npz")
    elsewhere = BundleStore(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"scorer\.npz has the hash"):
        elsewhere.add_folder(carried)
    with pytest.raises(BundleError, match="is no bundle"):
        elsewhere.add_folder(tmp_path)
    assert not elsewhere.root.exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_crash_at_any_step_leaves_a_whole_bundle_or_none(tmp_path, damaged):
    store = BundleStore(tmp_path / "bundles")
    id_of_it = BundleStore(tmp_path / "reference").put(MANIFEST, FILES)

    def prepare():
        shutil.rmtree(store.root, ignore_errors=True)
        if damaged:
            _flip_a_bit(store.path(store.put(MANIFEST, FILES)) / "scorer.npz")
        return lambda: store.put(MANIFEST, FILES)

    steps = 0
    for _ in crashes(prepare):
        steps += 1
        if id_of_it in store and not damaged:
            assert store.get(id_of_it).files == FILES
        assert store.put(MANIFEST, FILES) == id_of_it
        assert store.get(id_of_it).files == FILES
        assert {entry.name for entry in store.root.iterdir()} == {store.path(id_of_it).name, ".lock"}
    assert steps > 10
