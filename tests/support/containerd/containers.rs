//! Container records.

use std::sync::Arc;

use containerd_client::services::v1 as pb;
use futures_util::{StreamExt as _, stream};
use tonic::Status;

use super::filters::Filter;
use super::rpc::{Messages, Request, Response};
use super::{Inner, already_exists, not_found, now};

pub(super) async fn serve(call: Request) -> Response {
    match call.method() {
        "Create" => call.unary(|m: &pb::CreateContainerRequest| id(m.container.as_ref()), create).await,
        "Update" => call.unary(|m: &pb::UpdateContainerRequest| id(m.container.as_ref()), update).await,
        "Get" => call.unary(|m: &pb::GetContainerRequest| m.id.clone(), get).await,
        "ListStream" => call.streaming(|m: &pb::ListContainersRequest| m.filters.join(" "), list).await,
        "Delete" => call.unary(|m: &pb::DeleteContainerRequest| m.id.clone(), delete).await,
        _ => call.unimplemented(),
    }
}

fn id(container: Option<&pb::Container>) -> String {
    container.map(|container| container.id.clone()).unwrap_or_default()
}

fn create(fake: &Arc<Inner>, request: pb::CreateContainerRequest) -> Result<pb::CreateContainerResponse, Status> {
    let container = pb::Container { created_at: Some(now()), ..request.container.unwrap_or_default() };
    let mut state = fake.lock();
    if state.containers.contains_key(&container.id) {
        return Err(already_exists("container", &container.id));
    }
    state.containers.insert(container.id.clone(), container.clone());
    Ok(pb::CreateContainerResponse { container: Some(container) })
}

fn update(fake: &Arc<Inner>, request: pb::UpdateContainerRequest) -> Result<pb::UpdateContainerResponse, Status> {
    let mut new = request.container.unwrap_or_default();
    let mut state = fake.lock();
    let old = state.containers.get_mut(&new.id).ok_or_else(|| not_found("container", &new.id))?;
    for path in request.update_mask.unwrap_or_default().paths {
        if path == "spec" {
            old.spec = new.spec.take();
        } else if let Some(key) = path.strip_prefix("extensions.") {
            let value = new.extensions.remove(key).unwrap_or_default();
            old.extensions.insert(key.to_owned(), value);
        } else {
            panic!("the fake cannot update {path}");
        }
    }
    Ok(pb::UpdateContainerResponse { container: Some(old.clone()) })
}

fn get(fake: &Arc<Inner>, request: pb::GetContainerRequest) -> Result<pb::GetContainerResponse, Status> {
    let container = fake.lock().containers.get(&request.id).cloned();
    let container = container.ok_or_else(|| not_found("container", &request.id))?;
    Ok(pb::GetContainerResponse { container: Some(container) })
}

fn list(fake: &Arc<Inner>, request: pb::ListContainersRequest) -> Result<Messages<pb::ListContainerMessage>, Status> {
    let filter = Filter::of(&request.filters)?;
    let state = fake.lock();
    let chosen = state.containers.iter().filter(|(id, _)| filter.has(id)).map(|(_, container)| container.clone());
    let all: Vec<pb::Container> = chosen.collect();
    Ok(stream::iter(all).map(|container| Ok(pb::ListContainerMessage { container: Some(container) })).boxed())
}

fn delete(fake: &Arc<Inner>, request: pb::DeleteContainerRequest) -> Result<(), Status> {
    fake.lock().containers.remove(&request.id).map(drop).ok_or_else(|| not_found("container", &request.id))
}
