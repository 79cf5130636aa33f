//! The snapshots of one snapshotter. All of them show the same directory.

use std::collections::HashMap;
use std::sync::Arc;

use containerd_client::services::v1::snapshots as pb;
use containerd_client::types::Mount;
use futures_util::{StreamExt as _, stream};
use tonic::{Code, Status};

use super::rpc::{Messages, Request, Response};
use super::{Inner, already_exists, not_found, now, status};

pub(super) struct Snapshot {
    pub(super) parent: String,
    pub(super) committed: bool,
    pub(super) read_only: bool,
}

pub(super) async fn serve(call: Request) -> Response {
    match call.method() {
        "Prepare" => call.unary(|m: &pb::PrepareSnapshotRequest| m.key.clone(), prepare).await,
        "View" => call.unary(|m: &pb::ViewSnapshotRequest| m.key.clone(), view).await,
        "Mounts" => call.unary(|m: &pb::MountsRequest| m.key.clone(), mounts).await,
        "Commit" => call.unary(|m: &pb::CommitSnapshotRequest| m.name.clone(), commit).await,
        "Remove" => call.unary(|m: &pb::RemoveSnapshotRequest| m.key.clone(), remove).await,
        "Stat" => call.unary(|m: &pb::StatSnapshotRequest| m.key.clone(), stat).await,
        "List" => call.streaming(|m: &pb::ListSnapshotsRequest| m.snapshotter.clone(), list).await,
        "Usage" => call.unary(|m: &pb::UsageRequest| m.key.clone(), usage).await,
        _ => call.unimplemented(),
    }
}

fn add(fake: &Inner, key: &str, parent: &str, read_only: bool) -> Result<Vec<Mount>, Status> {
    let mut state = fake.lock();
    if !parent.is_empty() && !state.snapshots.get(parent).is_some_and(|parent| parent.committed) {
        return Err(not_found("snapshot", parent));
    }
    if state.snapshots.contains_key(key) {
        return Err(already_exists("snapshot", key));
    }
    let snapshot = Snapshot { parent: parent.to_owned(), committed: false, read_only };
    state.snapshots.insert(key.to_owned(), snapshot);
    Ok(vec![mount(fake, read_only)])
}

fn mount(fake: &Inner, read_only: bool) -> Mount {
    let access = if read_only { "ro" } else { "rw" };
    Mount {
        r#type: "bind".to_owned(),
        source: fake.rootfs.display().to_string(),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

fn prepare(fake: &Arc<Inner>, request: pb::PrepareSnapshotRequest) -> Result<pb::PrepareSnapshotResponse, Status> {
    Ok(pb::PrepareSnapshotResponse { mounts: add(fake, &request.key, &request.parent, false)? })
}

fn view(fake: &Arc<Inner>, request: pb::ViewSnapshotRequest) -> Result<pb::ViewSnapshotResponse, Status> {
    Ok(pb::ViewSnapshotResponse { mounts: add(fake, &request.key, &request.parent, true)? })
}

fn mounts(fake: &Arc<Inner>, request: pb::MountsRequest) -> Result<pb::MountsResponse, Status> {
    let read_only = fake.lock().snapshots.get(&request.key).map(|snapshot| snapshot.read_only);
    let read_only = read_only.ok_or_else(|| not_found("snapshot", &request.key))?;
    Ok(pb::MountsResponse { mounts: vec![mount(fake, read_only)] })
}

fn commit(fake: &Arc<Inner>, request: pb::CommitSnapshotRequest) -> Result<(), Status> {
    let mut state = fake.lock();
    if state.snapshots.contains_key(&request.name) {
        return Err(already_exists("snapshot", &request.name));
    }
    let snapshot = state.snapshots.remove(&request.key).ok_or_else(|| not_found("snapshot", &request.key))?;
    state.snapshots.insert(request.name, Snapshot { committed: true, ..snapshot });
    Ok(())
}

fn remove(fake: &Arc<Inner>, request: pb::RemoveSnapshotRequest) -> Result<(), Status> {
    let mut state = fake.lock();
    if state.snapshots.values().any(|other| other.parent == request.key) {
        return Err(status(Code::FailedPrecondition, "cannot remove snapshot with child"));
    }
    state.snapshots.remove(&request.key).map(drop).ok_or_else(|| not_found("snapshot", &request.key))
}

fn info(key: &str, snapshot: &Snapshot) -> pb::Info {
    let kind = match (snapshot.committed, snapshot.read_only) {
        (true, _) => pb::Kind::Committed,
        (false, true) => pb::Kind::View,
        (false, false) => pb::Kind::Active,
    };
    pb::Info {
        name: key.to_owned(),
        parent: snapshot.parent.clone(),
        kind: kind.into(),
        created_at: Some(now()),
        updated_at: Some(now()),
        labels: HashMap::new(),
    }
}

fn stat(fake: &Arc<Inner>, request: pb::StatSnapshotRequest) -> Result<pb::StatSnapshotResponse, Status> {
    let info = fake.lock().snapshots.get(&request.key).map(|snapshot| info(&request.key, snapshot));
    Ok(pb::StatSnapshotResponse { info: Some(info.ok_or_else(|| not_found("snapshot", &request.key))?) })
}

fn list(fake: &Arc<Inner>, _: pb::ListSnapshotsRequest) -> Result<Messages<pb::ListSnapshotsResponse>, Status> {
    let info = fake.lock().snapshots.iter().map(|(key, snapshot)| info(key, snapshot)).collect();
    Ok(stream::iter([Ok(pb::ListSnapshotsResponse { info })]).boxed())
}

fn usage(fake: &Arc<Inner>, request: pb::UsageRequest) -> Result<pb::UsageResponse, Status> {
    let there = fake.lock().snapshots.contains_key(&request.key);
    if there { Ok(pb::UsageResponse { size: 4096, inodes: 1 }) } else { Err(not_found("snapshot", &request.key)) }
}
