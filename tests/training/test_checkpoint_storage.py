"""Checkpoints in an S3 endpoint that fails, in one that refuses, and in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.s3 import S3Endpoint, s3_endpoint

from bolt_ray.core.digests import FileDigest, write_digested
from bolt_ray.core.errors import CheckpointError, StorageError
from bolt_ray.training.checkpoint_storage import CheckpointStorage
from bolt_ray.training.checkpoint_uploads import CheckpointUploads
from bolt_ray.training.checkpoints import newest_usable, read_checkpoint, write_checkpoint
from bolt_ray.training.run_directory import RunDirectory

WEIGHTS = b"w" * 300_000


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Endpoint]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    with s3_endpoint() as server:
        yield server


def storage_of(url: str) -> CheckpointStorage:
    return CheckpointStorage(url, attempts=12, pause=lambda seconds: None)


def save(run: RunDirectory, step: int, keep: int = 9) -> Path:
    def write_parts(directory: Path) -> dict[str, FileDigest]:
        (directory / "learner").mkdir()
        files = [directory / "learner" / f"optimizer-{number:05d}.safetensors" for number in range(3)]
        return {str(file): write_digested(file, [WEIGHTS]) for file in files}

    return write_checkpoint(run, step=step, state={"step": step}, write_parts=write_parts, keep=keep)


def files_of(checkpoint: Path) -> dict[str, bytes]:
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def test_an_endpoint_that_fails_half_of_its_requests_gives_back_what_was_uploaded(
    endpoint: S3Endpoint, tmp_path: Path
) -> None:
    storage, run = storage_of(endpoint.url), RunDirectory(tmp_path / "here")
    endpoint.fail(0.5)
    storage.check()
    for step in (1, 2):
        storage.upload(save(run, step))
        storage.keep_newest(1)
    assert storage.names() == ["step-000002"]
    elsewhere = RunDirectory(tmp_path / "there")
    found = newest_usable(elsewhere, storage=storage)
    assert found == (elsewhere.checkpoints / "step-000002", {"step": 2}, [])
    assert files_of(found.path) == files_of(run.checkpoints / "step-000002")
    assert endpoint.failed > endpoint.requests / 4
    endpoint.fail(0.0)
    assert storage._sizes().keys() == {"step-000002"}


def test_the_previous_checkpoint_is_fetched_where_the_newest_are_damaged_in_storage(
    endpoint: S3Endpoint, tmp_path: Path
) -> None:
    storage, run = storage_of(endpoint.url), RunDirectory(tmp_path / "here")
    for step in (1, 2, 3):
        storage.upload(save(run, step))
    part = "learner/optimizer-00001.safetensors"
    storage._write(storage._path("step-000003", part), lambda: [WEIGHTS[:-1] + b"x"])
    storage._files.delete_file(storage._path("step-000002", part))
    endpoint.fail(0.5)
    elsewhere = RunDirectory(tmp_path / "there")
    found = newest_usable(elsewhere, storage=storage)
    assert found is not None
    assert (found.path, found.state) == (elsewhere.checkpoints / "step-000001", {"step": 1})
    reasons = dict(found.refused)
    assert list(reasons) == ["step-000003 of s3://bucket/run", "step-000002 of s3://bucket/run"]
    assert f"{part}: changed or truncated" in reasons["step-000003 of s3://bucket/run"]
    assert f"{part}: missing" in reasons["step-000002 of s3://bucket/run"]
    assert [path.name for path in elsewhere.checkpoints.iterdir()] == ["step-000001"]


def test_one_that_is_damaged_here_is_fetched(endpoint: S3Endpoint, tmp_path: Path) -> None:
    storage, run = storage_of(endpoint.url), RunDirectory(tmp_path)
    path = save(run, 1)
    storage.upload(path)
    (path / "state.json").write_text("{}")
    found = newest_usable(run, storage=storage)
    assert found is not None
    assert (found.path, found.state, [place for place, _ in found.refused]) == (path, {"step": 1}, [path.name])


def test_half_an_upload_is_no_checkpoint(endpoint: S3Endpoint, tmp_path: Path) -> None:
    storage, run = storage_of(endpoint.url), RunDirectory(tmp_path / "here")
    storage.upload(save(run, 1))
    path = save(run, 2)
    storage._write(storage._path(path.name, "state.json"), lambda: [b"{}"])
    assert storage.names() == ["step-000001"]
    storage.upload(path)
    storage.keep_newest(1)
    assert storage._sizes().keys() == {"step-000002"}
    assert newest_usable(RunDirectory(tmp_path / "there"), storage=storage) is not None


def test_later_ones_are_set_aside_when_training_goes_back(endpoint: S3Endpoint, tmp_path: Path) -> None:
    storage, run = storage_of(endpoint.url), RunDirectory(tmp_path)
    uploads = CheckpointUploads(storage, keep=2, say=lambda text: None, timeout_s=30.0)
    paths = [save(run, step) for step in (1, 2, 3)]
    for path in paths:
        storage.upload(path)
    uploads.set_aside_later(paths[0])
    assert storage.names() == ["step-000001"]
    assert storage._sizes().keys() == {"step-000001", "step-000002", "step-000003"}
    uploads.add(paths[1])
    uploads.close()
    assert storage.names() == ["step-000001", "step-000002"]


def test_uploads_go_on_in_the_background_and_the_last_is_waited_for(endpoint: S3Endpoint, tmp_path: Path) -> None:
    endpoint.fail(0.5)
    said: list[str] = []
    run = RunDirectory(tmp_path)
    with CheckpointUploads(storage_of(endpoint.url), keep=1, say=said.append, timeout_s=60.0) as uploads:
        for step in (1, 2, 3):
            uploads.add(save(run, step))
            assert uploads.held <= {"step-000001", "step-000002", "step-000003"}
    assert uploads.held == set()
    assert uploads.storage.names() == ["step-000003"]
    assert [text for text in said if "is not uploaded, step-" not in text] == []


def test_an_upload_that_fails_is_said_and_at_the_end_an_error(endpoint: S3Endpoint, tmp_path: Path) -> None:
    said: list[str] = []
    storage = storage_of(endpoint.url.replace("//bucket", "//another"))
    uploads = CheckpointUploads(storage, keep=1, say=said.append, timeout_s=60.0)
    uploads.add(save(RunDirectory(tmp_path), 7))
    with pytest.raises(StorageError, match=r"s3://another/run: .*NO_SUCH_BUCKET.*; it is in the run directory"):
        uploads.close()
    assert "Warning: step-000007 IS NOT UPLOADED, training goes on: s3://another/run: " in said[0]


def test_without_credentials_the_start_is_refused_with_one_sentence(
    endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    endpoint.need_credentials()
    with pytest.raises(
        CheckpointError, match=r"^checkpoint\.storage: s3://bucket/run: .*ACCESS_DENIED.*AWS_ACCESS_KEY_ID"
    ):
        CheckpointStorage(endpoint.url, pause=lambda seconds: pytest.fail("no attempt helps")).check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://AKIA:secret@bucket/run", "holds credentials"),
        ("s3://bucket/run?access_key=a&secret_key=b", "holds credentials"),
        ("ftp://host/run", "is no URL such as s3://"),
        ("/shared/run", "is no URL such as s3://"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        CheckpointStorage(url)
    assert "secret@" not in str(caught.value)


def test_a_directory_of_another_file_system_is_a_storage_too(tmp_path: Path) -> None:
    storage, run = storage_of((tmp_path / "shared").as_uri()), RunDirectory(tmp_path / "here")
    storage.check()
    assert storage.names() == []
    for step in (1, 2):
        storage.upload(save(run, step))
    storage.keep_newest(1)
    found = newest_usable(RunDirectory(tmp_path / "there"), storage=storage)
    assert found is not None
    assert found.state == {"step": 2} and storage.names() == ["step-000002"]


def test_a_manifest_that_names_files_elsewhere_fetches_nothing(tmp_path: Path) -> None:
    storage, run = storage_of((tmp_path / "shared").as_uri()), RunDirectory(tmp_path / "here")
    storage.upload(save(run, 1))
    manifest = tmp_path / "shared" / "step-000001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"learner/', '"../../learner/'))
    with pytest.raises(CheckpointError, match="which is no file of it"):
        newest_usable(RunDirectory(tmp_path / "there"), storage=storage)


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    """Every byte of the small files flipped, one at a time: the checkpoint is refused, or says the same."""
    run = RunDirectory(tmp_path)
    path = save(run, 1)
    for name in ("manifest.json", "state.json"):
        file = path / name
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                assert read_checkpoint(path) == {"step": 1}
            except CheckpointError:
                continue
        file.write_bytes(whole)
