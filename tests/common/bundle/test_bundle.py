"""Bundles: written whole, read only when every byte is what it says, one sentence when not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lakes import put_part, sample_rows

from common.bundle import folder as bundle
from common.bundle.folder import Bundle
from common.config import digest
from common.errors import MienError, UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS
from common.lake.layout import Lake

torch = pytest.importorskip("torch")

FIELDS: dict[str, Any] = {
    "name": "tiny",
    "encoder": {"kind": "mae", "options": {"depth": 2}, "file": "encoder.safetensors"},
    "preprocess": {"crop": [8, 8, 96], "size": 48, "grey": True, "standardise": True},
    "crop": {"template": "arcface", "size": 112, "margin": 0.0},
    "heads": {
        "va": {"kind": "wide", "options": {"width": 8}, "file": "va.safetensors", "outputs": ["valence", "arousal"]},
        "expr": {"kind": "wide", "options": {"width": 8}, "file": "expr.safetensors", "outputs": list(EXPRESSIONS)},
    },
    "recipe": {"name": "demo", "lr": 1e-4},
    "data": {"videos": 3},
    "metrics": {"ccc_valence": 0.5},
    "code_version": "0.1.0",
    "licence": "Apache-2.0",
    "intended_use": "demo",
}


def heads(expressions: list[str]) -> dict[str, Any]:
    """The heads of `FIELDS`, the one for expressions with these outputs."""
    return FIELDS["heads"] | {"expr": FIELDS["heads"]["expr"] | {"outputs": expressions}}


def weights(seed: int = 0) -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: {"w": torch.randn(4, 3, generator=generator), "b": torch.randn(4, generator=generator).bfloat16()}
        for name in ("encoder.safetensors", "va.safetensors", "expr.safetensors")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundle.write(tmp_path / "model", FIELDS, weights()).path


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    written = bundle.write(tmp_path / "deep" / "model", FIELDS, weights())
    read = Bundle.open(tmp_path / "deep" / "model")
    assert read == written
    assert read.manifest.preprocess.crop == (8, 8, 96)
    assert (
        json.loads(read.manifest.model_dump_json(exclude={"id", "files", "schema_version"}, exclude_none=True))
        == FIELDS
    )
    for name, tensors in weights().items():
        loaded = read.tensors(name)
        assert loaded.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert loaded[key].dtype == tensor.dtype
            assert torch.equal(loaded[key], tensor)


def test_only_the_manifest_its_card_and_the_weights_are_in_the_folder(tmp_path: Path, folder: Path) -> None:
    weights = ["encoder.safetensors", "expr.safetensors", "va.safetensors"]
    assert sorted(os.listdir(folder)) == ["MODEL_CARD.md", "bundle.json", *weights]
    assert os.listdir(tmp_path) == ["model"]


def test_the_id_is_twelve_hex_digits_the_same_for_the_same_model(tmp_path: Path) -> None:
    first = bundle.write(tmp_path / "a", FIELDS, weights()).manifest.id
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert bundle.write(tmp_path / "b", FIELDS, weights()).manifest.id == first
    assert bundle.write(tmp_path / "c", FIELDS, weights(1)).manifest.id != first
    assert bundle.write(tmp_path / "d", FIELDS | {"recipe": {"lr": 1}}, weights()).manifest.id != first


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_the_umask_says_who_may_read_a_bundle(tmp_path: Path, mask: int, file_mode: int, folder_mode: int) -> None:
    before = os.umask(mask)
    try:
        made = bundle.write(tmp_path / "model", FIELDS, weights())
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in made.path.iterdir()} == dict.fromkeys(
        (*made.manifest.files, "bundle.json", "MODEL_CARD.md"), file_mode
    )
    assert made.path.stat().st_mode & 0o777 == folder_mode


def test_tensors_that_share_storage_can_be_written(tmp_path: Path) -> None:
    matrix = torch.arange(12.0).reshape(3, 4)
    tensors = weights() | {"va.safetensors": {"w": matrix, "first": matrix[0], "t": matrix.T}}
    written = bundle.write(tmp_path / "model", FIELDS, tensors)
    assert torch.equal(written.tensors("va.safetensors")["t"], matrix.T)


def test_a_bundle_may_be_replaced(tmp_path: Path, folder: Path) -> None:
    before = Bundle.open(folder).manifest.id
    bundle.write(folder, FIELDS, weights(1))
    assert Bundle.open(folder).manifest.id != before
    assert os.listdir(tmp_path) == ["model"]


def test_a_bundle_that_is_there_is_named_with_the_scores_by_it_that_a_lake_has(tmp_path: Path, folder: Path) -> None:
    held = Bundle.open(folder).manifest
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(UsageError) as error:
        bundle.refuse_to_replace(folder, lake)
    assert str(error.value) == (
        f"{folder} holds the bundle {held.name} {held.id}: replace it with --force, or name another folder; "
        f"rows that it has scored keep their model's name, {held.name}-{held.id}-..."
    )
    for model in (f"{held.name}-{held.id}-0a", f"{held.name}-0123456789ab-0a"):
        put_part(lake, "scores", "u1", sample_rows("scores", 1), keys={"model": model, "archive": "tapes"})
    said = rf"its scores in the lake {lake.url} stay \({held.name}-{held.id}-0a in archive tapes\)\Z"
    with pytest.raises(UsageError, match=said):
        bundle.refuse_to_replace(folder, lake)


def test_a_damaged_bundle_is_not_replaced_unasked_either(folder: Path) -> None:
    (folder / "bundle.json").write_text("{")
    with pytest.raises(UsageError, match=f"{folder} holds a bundle: replace it with --force"):
        bundle.refuse_to_replace(folder)


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "thesis"
    if kind == "folder":
        place.mkdir()
        (place / "chapter.tex").write_text("years")
    elif kind == "file":
        place.write_text("years")
    else:
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"exists and is not a bundle.*name another folder"):
        bundle.write(place, FIELDS, weights())
    assert os.listdir(tmp_path) == ["thesis"]


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    bundle.write(tmp_path / "model", FIELDS, weights())
    Bundle.open(tmp_path / "model")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "No Such Name"},
        {"heads": {}},
        {"heads": {"va": FIELDS["heads"]["va"]}},
        {"heads": FIELDS["heads"] | {"pain": FIELDS["heads"]["va"]}},
        {"preprocess": {"crop": [20, 20, 96], "size": 48}},
        {"preprocess": {"crop": [8, 8, 96], "size": 48, "mean": [0.5]}},
        {"heads": heads(["happy"])},
        {"heads": heads(["anger", "anger"])},
        {"heads": heads([])},
        {"encoder": {"kind": "mae", "options": {}, "file": "../encoder.safetensors"}},
        {"encoder": {"kind": "mae", "options": {}, "file": "other.safetensors"}},
        {"surprise": 1},
        {"heads": FIELDS["heads"] | {"va": FIELDS["heads"]["va"] | {"threshold": float("nan")}}},
        {"heads": FIELDS["heads"] | {"va": FIELDS["heads"]["va"] | {"thresholds": {"fear": 0.5}}}},
    ],
)
def test_an_inconsistent_manifest_is_refused_and_nothing_is_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^the bundle is not complete: "):
        bundle.write(tmp_path / "model", FIELDS | changes, weights())
    assert os.listdir(tmp_path) == []


def test_outputs_may_be_some_of_those_that_the_task_knows_in_any_order(tmp_path: Path) -> None:
    few = bundle.write(tmp_path / "model", FIELDS | {"heads": heads(["happiness", "contempt"])}, weights())
    assert few.manifest.heads["expr"].outputs == ("happiness", "contempt")
    with pytest.raises(UsageError):
        bundle.write(tmp_path / "other", FIELDS | {"heads": heads(list(ACTION_UNITS))}, weights())


def test_an_interrupted_write_leaves_the_old_bundle(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle.open(folder).manifest.id
    real, calls = os.rename, []

    def fails_second(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", fails_second)
    with pytest.raises(MienError, match="No space left on device"):
        bundle.write(folder, FIELDS, weights(1))
    assert Bundle.open(folder).manifest.id == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MienError, match=r"cannot be written: Not a directory"):
        bundle.write(tmp_path / "file" / "model", FIELDS, weights())


@pytest.mark.parametrize("position", [0, 9, -1])
@pytest.mark.parametrize("name", ["encoder.safetensors", "va.safetensors"])
def test_a_flipped_byte_in_the_weights_is_found(folder: Path, name: str, position: int) -> None:
    content = bytearray((folder / name).read_bytes())
    content[position] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"^{name} of the bundle .* is damaged.*copy the bundle again"):
        Bundle.open(folder)


def test_a_truncated_file_of_weights_is_found(folder: Path) -> None:
    os.truncate(folder / "va.safetensors", 10)
    with pytest.raises(UsageError, match=r"va\.safetensors of the bundle .* is damaged"):
        Bundle.open(folder)


def test_a_missing_file_of_weights_is_named(folder: Path) -> None:
    (folder / "va.safetensors").unlink()
    with pytest.raises(UsageError, match=r"va\.safetensors of the bundle .* cannot be read: No such file"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"lr": 1}},
        {"intended_use": "everything"},
        {"name": "other"},
        {"metrics": {"ccc_valence": 0.9}},
        {"id": "0123456789ab"},
    ],
)
def test_a_changed_manifest_is_found(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    with pytest.raises(UsageError, match=r"^bundle\.json of the bundle .* was changed"):
        Bundle.open(folder)


def test_a_bundle_written_before_a_field_with_a_default_was_added_is_opened(folder: Path) -> None:
    stored = json.loads((folder / "bundle.json").read_text())
    del stored["crop"]["template"]
    assert all(head.pop("thresholds") is None for head in stored["heads"].values())
    edit(
        folder,
        crop=stored["crop"],
        heads=stored["heads"],
        id=digest({name: value for name, value in stored.items() if name != "id"}),
    )
    assert Bundle.open(folder).manifest.crop.template == "arcface"


def test_weights_of_another_model_with_their_own_digest_are_found(tmp_path: Path, folder: Path) -> None:
    other = bundle.write(tmp_path / "other", FIELDS, weights(1)).path
    shutil.copy(other / "va.safetensors", folder)
    files = json.loads((folder / "bundle.json").read_text())["files"]
    files["va.safetensors"] = json.loads((other / "bundle.json").read_text())["files"]["va.safetensors"]
    edit(folder, files=files)
    with pytest.raises(UsageError, match="was changed"):
        Bundle.open(folder)


def test_whitespace_in_the_manifest_does_not_matter(folder: Path) -> None:
    edit(folder)
    Bundle.open(folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "does not describe a bundle"),
        (b"{}", "does not describe a bundle: the key '.*' is missing"),
        (b'{"schema_version": 3}', r"newer mien \(version 3 of bundle\.json, not 2\): upgrade"),
        (b'{"schema_version": 1, "temporal": {}}', "older mien .*: train it again with this version"),
    ],
)
def test_a_manifest_that_is_none_is_one_sentence(folder: Path, content: bytes, problem: str) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(UsageError, match=problem) as error:
        Bundle.open(folder)
    assert "\n" not in str(error.value)


def test_a_manifest_cannot_lead_out_of_its_folder(folder: Path) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["heads"]["va"]["file"] = "/etc/passwd"
    edit(folder, **manifest)
    with pytest.raises(UsageError, match=r"heads\.va\.file"):
        Bundle.open(folder)


def test_a_path_without_a_bundle_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle at"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(UsageError, match=r"is not a bundle, it holds no bundle\.json: name a folder that `mien train`"):
        Bundle.open(tmp_path)
    (tmp_path / "bundle.json").mkdir()
    with pytest.raises(UsageError, match=r"the bundle\.json of the bundle .* cannot be read: Is a directory"):
        Bundle.open(tmp_path)


def test_a_file_that_the_bundle_does_not_list_cannot_be_asked_for(folder: Path) -> None:
    with pytest.raises(KeyError):
        Bundle.open(folder).tensors("bundle.json")


def test_opening_needs_no_torch(folder: Path) -> None:
    opening = "from common.bundle.folder import Bundle; Bundle.open(sys.argv[1])"
    program = f"import sys; {opening}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program, folder]).returncode == 0


@pytest.fixture
def remote(folder: Path, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bundle below s3://, and a local cache of its own."""
    from common.store.store import Store

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store(f"{s3_url}/models/tiny")
    for file in folder.iterdir():
        store.create(file.name, file)
    return f"{s3_url}/models/tiny"


def test_a_bundle_on_s3_is_the_one_that_was_copied_there(folder: Path, remote: str) -> None:
    fetched, local = Bundle.open(remote), Bundle.open(folder)
    assert fetched.manifest == local.manifest
    assert (fetched.path / "MODEL_CARD.md").read_bytes() == (folder / "MODEL_CARD.md").read_bytes()
    assert torch.equal(fetched.tensors("va.safetensors")["w"], local.tensors("va.safetensors")["w"])


def test_a_bundle_without_a_card_is_used_all_the_same(folder: Path, remote: str) -> None:
    from common.store.store import Store

    Store(remote).delete(["MODEL_CARD.md"])
    (folder / "MODEL_CARD.md").unlink()
    assert Bundle.open(remote).manifest == Bundle.open(folder).manifest
    assert not (Bundle.open(remote).path / "MODEL_CARD.md").exists()


def test_a_fetched_bundle_is_kept_and_mended(remote: str) -> None:
    path = Bundle.open(remote).path
    stamp = (path / "va.safetensors").stat().st_mtime_ns
    assert Bundle.open(remote).path == path
    assert (path / "va.safetensors").stat().st_mtime_ns == stamp
    (path / "va.safetensors").write_bytes(b"damaged")
    assert Bundle.open(remote).tensors("va.safetensors")


def test_a_bundle_that_another_process_fetched_meanwhile_stays_as_it_is(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.store.store import Store

    def inode(opened: Bundle) -> int:
        return (opened.path / "va.safetensors").stat().st_ino

    def download(*arguments: Any) -> None:
        monkeypatch.setattr(Store, "download", fetch)
        theirs.append(inode(Bundle.open(remote)))
        fetch(*arguments)

    fetch, theirs = Store.download, []
    monkeypatch.setattr(Store, "download", download)
    assert [inode(Bundle.open(remote))] == theirs


def test_a_damaged_bundle_on_s3_is_refused_and_not_kept(remote: str, tmp_path: Path) -> None:
    from common.store.store import Store

    store = Store(remote)
    store.delete(["va.safetensors"])
    with pytest.raises(UsageError, match=r"va\.safetensors of the bundle .* is missing"):
        Bundle.open(remote)
    store.create("va.safetensors", b"damaged")
    with pytest.raises(UsageError, match="are damaged"):
        Bundle.open(remote)
    assert list((tmp_path / "cache" / "mien" / "bundles").iterdir()) == []


def test_no_bundle_on_s3_is_one_sentence(s3_url: str) -> None:
    with pytest.raises(UsageError, match=r"there is no bundle at s3://.*: it holds no bundle\.json"):
        Bundle.open(f"{s3_url}/nothing")
