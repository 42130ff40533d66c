import shutil
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.rollout import Challenger, Release, Standby
from mlops_assets.stores.releases import ReleaseConflict, ReleaseDamaged, ReleaseStore, UnknownRelease
from mlops_assets_tests.stores.crash import crashes
from mlops_assets_tests.stores.examples import NOON, plan


@pytest.fixture
def store(tmp_path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases")


def test_nothing_is_published_at_first(store):
    assert store.models() == ()
    assert store.current("flight_delay") is None
    assert store.history("flight_delay") == ()
    assert store.stamp() == store.stamp()
    with pytest.raises(UnknownRelease, match=r"flight_delay has no release 1: no release is published"):
        store.get("flight_delay", 1)


def test_plans_follow_each_other_and_all_are_kept(store):
    plans = (
        plan(1),
        plan(2, challenger=Challenger(3, "sha256:c", "canary", 0.1), withdrawn=(1, 2)),
        plan(3, standby=Standby(1, "sha256:s", NOON), last_good=Release(1, "sha256:s"), fallback_value="no"),
    )
    for each in plans:
        store.publish(each)
        assert store.current("flight_delay") == each
    assert store.history("flight_delay") == plans
    assert tuple(store.get("flight_delay", n) for n in (1, 2, 3)) == plans
    for unknown in (-1, 0, 4):
        with pytest.raises(KeyError, match="releases 1 to 3 are published"):
            store.get("flight_delay", unknown)


def test_models_are_apart(store):
    store.publish(plan(1, "b"))
    store.publish(plan(1, "a"))
    store.publish(plan(2, "a"))
    assert store.models() == ("a", "b")
    assert store.current("a").release == 2
    assert store.current("b").release == 1


@pytest.mark.parametrize("release", [1, 2, 4, 9])
def test_a_plan_that_does_not_follow_the_current_one_conflicts(store, release):
    store.publish(plan(1))
    store.publish(plan(2))
    stamp = store.stamp()
    with pytest.raises(ReleaseConflict, match="the current one is 2"):
        store.publish(plan(release))
    assert store.stamp() == stamp
    assert store.current("flight_delay") == plan(2)


def test_misnumbered_and_unwritable_plans_are_refused(store):
    for wrong in (
        plan(1, previous=1),
        plan(0),
        plan(1, fallback_value=float("nan")),
        plan(1, challenger=Challenger(2, "sha256:c", "canary", float("inf"))),
        plan(1, "../elsewhere"),
    ):
        with pytest.raises(ValueError, match=r"release|name a model"):
            store.publish(wrong)
    assert store.models() == ()


def test_the_stamp_changes_with_every_publication_and_only_then(store):
    stamps = [store.stamp()]
    for each in (plan(1), plan(1, "air_time"), plan(2), plan(3)):
        store.publish(each)
        assert store.stamp() == store.stamp()
        assert store.stamp() not in stamps
        stamps.append(store.stamp())


def test_the_stamp_tells_a_store_started_afresh_from_the_former(store):
    store.publish(plan(1))
    stamp = store.stamp()
    shutil.rmtree(store.root)
    store.publish(plan(1, salt="another"))
    assert store.stamp() != stamp


def test_damage_is_named(store):
    """Bytes that are no UTF-8 once came out as a bare UnicodeDecodeError."""
    store.publish(plan(1))
    store.publish(plan(2))
    folder = store.root / "flight_delay"
    (folder / "00000002.json").write_bytes((folder / "00000002.json").read_bytes().replace(b"passed", b"failed"))
    with pytest.raises(ReleaseDamaged, match=r"00000002\.json does not have the hash"):
        store.current("flight_delay")
    for content in (b"{", b'{"model":"\xff"}'):
        (folder / "00000001.json").write_bytes(content)
        with pytest.raises(ReleaseDamaged, match=r"00000001\.json is not a release plan"):
            store.get("flight_delay", 1)
    (folder / "00000001.json").unlink()
    with pytest.raises(ReleaseDamaged, match=r"00000001\.json is missing"):
        store.history("flight_delay")
    for content in (b"", b'{"release":1,"sha256":"\xff"}'):
        (folder / "current").write_bytes(content)
        with pytest.raises(ReleaseDamaged, match="is not a release pointer"):
            store.current("flight_delay")


@pytest.mark.parametrize("published", [0, 1])
def test_a_crash_at_any_step_leaves_the_former_plan_or_the_new_one(store, published):
    former, new, rival = plan(published) if published else None, plan(published + 1), plan(published + 1, salt="rival")

    def prepare():
        shutil.rmtree(store.root, ignore_errors=True)
        if former:
            store.publish(former)
        return lambda: store.publish(new)

    seen = []
    for _ in crashes(prepare):
        current = store.current("flight_delay")
        seen.append(current)
        assert current in (former, new)
        assert store.history("flight_delay") == tuple(each for each in dict.fromkeys((former, current)) if each)
        if current == former:
            with pytest.raises(UnknownRelease):
                store.get("flight_delay", new.release)
            store.publish(rival)
            assert store.current("flight_delay") == rival
            assert store.get("flight_delay", rival.release) == rival
        else:
            with pytest.raises(ReleaseConflict):
                store.publish(rival)
        assert not list((store.root / "flight_delay").glob(".incoming-*"))
    assert former in seen
    assert new in seen


PUBLISHER = """
import sys
from pathlib import Path
from mlops_assets.stores.releases import ReleaseConflict, ReleaseStore
from mlops_assets_tests.stores.examples import plan

store, me, last = ReleaseStore(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
while True:
    current = store.current("flight_delay")
    release = current.release + 1 if current else 1
    if release > last:
        break
    try:
        store.publish(plan(release, decided_by=me))
    except ReleaseConflict:
        continue
    print(release, flush=True)
"""


def test_of_two_publishing_processes_exactly_one_wins_each_number(store):
    last = 60
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(store.root), name, str(last)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    seen = 0
    while seen < last and any(process.poll() is None for process in processes):
        current = store.current("flight_delay")  # never torn, never missing again, never going back
        assert current is not None or seen == 0
        release = current.release if current else 0
        assert release >= seen
        seen = release
    won = {
        name: [int(n) for n in process.communicate()[0].split()] for name, process in zip("ab", processes, strict=True)
    }
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(won["a"] + won["b"]) == list(range(1, last + 1))
    decided_by = {each.release: each.decided_by for each in store.history("flight_delay")}
    assert decided_by == {release: name for name, releases in won.items() for release in releases}


@settings(max_examples=30, deadline=None)
@given(
    plans=st.lists(
        st.builds(
            plan,
            st.just(1),
            reason=st.text(st.characters(exclude_categories=["Cs"])),
            fallback_value=st.none()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text("aé☂")
            | st.integers(-9, 9),
            withdrawn=st.lists(st.integers(1, 10**6)).map(tuple),
        ),
        max_size=3,
    )
)
def test_whatever_is_published_reads_back(tmp_path_factory, plans):
    store = ReleaseStore(tmp_path_factory.mktemp("releases"))
    numbered = [msgspec.structs.replace(each, release=n + 1, previous=n) for n, each in enumerate(plans)]
    for each in numbered:
        store.publish(each)
    assert list(store.history("flight_delay")) == numbered
